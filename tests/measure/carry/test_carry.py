"""There and back: a bundle is run where only Python is, and becomes rows of that device's table."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hwprune.artifact import read_json, sha256_file, write_json
from hwprune.compile import pipeline_hash
from hwprune.errors import ArtifactError, UsageError
from hwprune.latency.samples import SampleFile
from hwprune.latency.table import LatencyTable
from hwprune.measure.carry.bundle import load_carry_bundle
from hwprune.measure.carry.device.main import (
    BUNDLE_FORMAT,
    BUNDLE_VERSION,
    JOURNAL,
    MANIFEST,
    RESULTS,
    payload_sha256,
)
from hwprune.measure.carry.pack import pack
from hwprune.measure.carry.record import record
from hwprune.measure.carry.results import open_carried, read_results
from hwprune.measure.carry.runtime import runtime_files
from hwprune.measure.device import describe_device
from hwprune.target import load_target
from tests.measure.carry.conftest import UNBUILDABLE, Device, Packed
from tests.measure.fakes import FAST


def rewrite_manifest(bundle: Path, change: dict[str, Any]) -> None:
    """As if the bundle had been packed like this."""
    payload = read_json(bundle / MANIFEST, BUNDLE_FORMAT, BUNDLE_VERSION)
    payload.update(change)
    write_json(bundle / MANIFEST, BUNDLE_FORMAT, BUNDLE_VERSION, payload)


def test_bundle_says_what_it_is(packed: Packed):
    manifest = load_carry_bundle(packed.directory).manifest
    assert manifest.pipeline == pipeline_hash(packed.target)
    assert {k.digest for k in manifest.kernels} == {s.digest() for s in packed.bench.needed()}
    assert [item.digest for item in manifest.unbuilt] == [UNBUILDABLE.digest()]
    assert manifest.profile == FAST.to_dict() and manifest.network_profile["name"] == "table"
    assert manifest.pace is not None and manifest.pace.copies == 1
    files = {p.relative_to(packed.directory).as_posix() for p in packed.directory.rglob("*") if p.is_file()}
    assert set(manifest.files) == files - {MANIFEST}
    assert all(kernel.expected for kernel in manifest.kernels), "what kernels return is known here"
    assert packed.report.kernels == len(manifest.kernels) and packed.report.networks == 2


def test_results_become_rows_of_the_table_of_that_device(packed: Packed, measured: Path, tmp_path: Path):
    report = record(open_carried(measured), tmp_path)
    assert report.device == describe_device().slug, "the script describes this machine as we do"
    table = LatencyTable.load(report.directory, pipeline=pipeline_hash(packed.target), device=report.device)
    rows = {row.digest: row for row in table}
    assert {s.digest() for s in packed.bench.needed()} <= rows.keys()
    assert "float16 has no lowering" in (rows.pop(UNBUILDABLE.digest()).failure or "")
    assert all(row.failure is None and row.median > 0 for row in rows.values())
    assert table.manifest.provenance == "measured" and table.manifest.unit == "ns"
    sweep = table.manifest.latest
    assert sweep.reached["runner"] == "carry"
    assert sweep.reached["bundle"] == sha256_file(measured / MANIFEST)
    assert sweep.conditions["sentinel"]["timings"] and sweep.conditions["cores"]
    parts = read_results(measured / RESULTS).kernels[0]
    part = (parts.parts or parts.spoiled)[0].sampled()
    assert len(part.pace_ns) == len(part.samples_ns), "the core's speed is noted beside every sample"
    raw = {k.digest: k.parts or k.spoiled for k in read_results(measured / RESULTS).kernels}
    samples = SampleFile(report.directory)
    for digest, parts in raw.items():
        kept = samples.of(rows[digest])
        assert kept is not None
        assert kept.values == tuple(value for part in parts for value in part.samples_ns)
    assert report.networks_ns.keys() == {"dense", "plan"} and min(report.networks_ns.values()) > 0
    text = (report.directory / "table.csv").read_text()
    again = record(open_carried(measured), tmp_path)
    assert again == report and (report.directory / "table.csv").read_text() == text


def test_second_run_on_the_device_only_times_what_is_not_good(measured: Path, device: Device, tmp_path: Path):
    place = Path(shutil.copytree(measured, tmp_path / "bundle"))
    done = device(place)
    assert done.returncode == 0
    first, second = (read_results(p / RESULTS) for p in (measured, place))
    assert len(second.sessions) == 2
    for before, after in zip(first.kernels, second.kernels, strict=True):
        assert before == after or not before.parts


def test_wrong_values_and_useless_libraries_fail_alone(packed: Packed, device: Device, tmp_path: Path):
    bundle = packed.copy(tmp_path / "bundle")
    payload = read_json(bundle / MANIFEST, BUNDLE_FORMAT, BUNDLE_VERSION)
    kernels = payload["kernels"][:3]
    kernels[0]["expected"] = [[0, 1e6]]
    broken = kernels[1]["file"]
    (bundle / broken).write_bytes(b"no library")
    files = {**payload["files"], broken: sha256_file(bundle / broken)}
    rewrite_manifest(bundle, {"kernels": kernels, "files": files, "networks": [], "unbuilt": []})
    done = device(bundle)
    assert done.returncode == 0, done.stderr
    assert (
        "2 failed" in done.stdout and f"failed: {kernels[0]['digest']}: returned wrong values" in done.stdout
    )
    report = record(open_carried(bundle), tmp_path / "tables")
    assert len(report.failures) == 2 and report.good + report.untrusted == 2  # the sentinel, too
    assert any("wrong values" in reason for reason in report.failures.values())


def test_interrupted_run_keeps_what_it_has_and_goes_on(packed: Packed, device: Device, tmp_path: Path):
    bundle = packed.copy(tmp_path / "bundle")
    # Kernels take so long that the run is caught in the middle.
    payload = read_json(bundle / MANIFEST, BUNDLE_FORMAT, BUNDLE_VERSION)
    patient = {**payload["profile"]["stopping"], "min_time_s": 0.3, "timeout_s": 9}
    slow = {**payload["profile"], "stopping": patient}
    rewrite_manifest(bundle, {"profile": slow, "networks": []})
    process = subprocess.Popen([sys.executable, str(bundle / "run.py")], stdout=subprocess.PIPE, text=True)
    wanted = 4  # records: a session, three timings of the sentinel; then the first kernel is on its way
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        journal = bundle / JOURNAL
        if journal.exists() and journal.read_bytes().count(b"\n") > wanted:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "run the same command to go on" in out
    partial = record(open_carried(bundle), tmp_path / "tables")
    done = len(payload["kernels"]) - len(partial.missing)
    assert 0 < done < len(payload["kernels"])
    assert any("not reached" in warning for warning in partial.warnings)


def test_changed_bundle_is_refused_on_the_device_and_here(packed: Packed, device: Device, tmp_path: Path):
    bundle = packed.copy(tmp_path / "bundle")
    library = next((bundle / "kernels").iterdir())
    library.write_bytes(library.read_bytes()[:-1] + b"x")
    done = device(bundle)
    assert done.returncode == 1 and f"{library.name} was changed after the bundle was packed" in done.stderr
    assert not (bundle / RESULTS).exists()
    with pytest.raises(ArtifactError, match=f"{library.name} was changed"):
        load_carry_bundle(bundle)
    library.unlink()
    assert f"{library.name} is missing" in device(bundle).stderr
    manifest = bundle / MANIFEST
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    assert "manifest.json was changed" in device(bundle).stderr


def test_changed_script_is_noticed(packed: Packed, device: Device, tmp_path: Path):
    bundle = packed.copy(tmp_path / "bundle")
    script = bundle / "run.py"
    script.write_text(script.read_text().replace("DRIFT_LIMIT = 0.10", "DRIFT_LIMIT = 9.10"))
    assert "run.py was changed" in device(bundle).stderr


def edit(path: Path, change: dict[str, Any], *, seal: bool = False) -> None:
    envelope = json.loads(gzip.decompress(path.read_bytes()))
    envelope["payload"].update(change)
    if seal:
        envelope["sha256"] = payload_sha256(envelope["payload"])
    path.write_bytes(gzip.compress(json.dumps(envelope).encode()))


def test_results_that_cannot_be_trusted_are_refused(packed: Packed, measured: Path, tmp_path: Path):
    place = Path(shutil.copytree(measured, tmp_path / "bundle"))
    results = place / RESULTS
    whole = results.read_bytes()

    results.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="damaged or cut off"):
        open_carried(place)
    results.write_bytes(whole)
    edit(results, {"missing": ["x"]})
    with pytest.raises(ArtifactError, match="was edited"):
        open_carried(place)
    results.write_bytes(whole)
    edit(results, {"bundle": "0" * 64}, seal=True)
    with pytest.raises(ArtifactError, match="measured with another bundle"):
        open_carried(place)
    results.write_bytes(gzip.compress(b'{"a": 1}'))
    with pytest.raises(ArtifactError, match="not a results file"):
        open_carried(place)
    results.unlink()
    with pytest.raises(ArtifactError, match=r"results\.json\.gz does not exist"):
        open_carried(place)


def test_results_alone_need_their_bundle(packed: Packed, measured: Path, tmp_path: Path):
    alone = tmp_path / RESULTS
    shutil.copyfile(measured / RESULTS, alone)
    with pytest.raises(ArtifactError, match="holds no bundle"):
        open_carried(alone)
    assert open_carried(alone, packed.directory).bundle.directory == packed.directory
    other = packed.copy(tmp_path / "other")
    rewrite_manifest(other, {"seed": 7})
    with pytest.raises(ArtifactError, match="measured with another bundle"):
        open_carried(alone, other)


def test_bundle_that_was_run_is_not_replaced(measured: Path, packed: Packed, tmp_path: Path):
    with pytest.raises(ArtifactError, match="holds measurements"):
        pack([], packed.target, measured, pipeline="p")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="not a bundle"):
        pack([], packed.target, tmp_path, pipeline="p")


def test_foreign_architectures_need_their_own_runtime(packed: Packed, tmp_path: Path):
    target = load_target("aarch64-generic")
    with pytest.raises(UsageError, match="needs the TVM runtime for aarch64"):
        pack([], target, tmp_path / "bundle", pipeline="p")
    with pytest.raises(ArtifactError, match=r"is for .*, the bundle is for aarch64"):
        pack([], target, tmp_path / "bundle", pipeline="p", runtime=packed.directory / "lib")
    with pytest.raises(UsageError, match=r"holds no libtvm_ffi\.so"):
        runtime_files("aarch64", tmp_path)
