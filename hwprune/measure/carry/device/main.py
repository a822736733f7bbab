"""The command line on the device."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwprune.measure.carry.device.child import CHILD_FLAG, child_main
from hwprune.measure.carry.device.journal import END, SESSION, Journal, State
from hwprune.measure.carry.device.machine import unfit, utc_now
from hwprune.measure.carry.device.runner import BundleRunner
from hwprune.measure.carry.device.timing import CarriedSweep
from hwprune.measure.carry.device.worker import KernelError, KernelProcess
from hwprune.measure.device import describe_device, measuring_cores
from hwprune.measure.guard import load_warning
from hwprune.target import cpu_flags

MANIFEST = "manifest.json"
RESULTS = "results.json.gz"
JOURNAL = "journal.jsonl"
RESULTS_FORMAT = "hwprune-carry-results"
BUNDLE_FORMAT = "hwprune-carry-bundle"
RESULTS_VERSION = BUNDLE_VERSION = 1


class BundleError(Exception):
    """The bundle cannot be run as it is."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def payload_sha256(payload: Any) -> str:
    """SHA-256 of a JSON value in canonical form, as in every file that hwprune writes."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_bundle(folder: Path) -> dict[str, Any]:
    """The manifest's payload, after every file was compared with its hash.

    Raises
    ------
    BundleError
        Naming the file that is missing or changed.
    """
    advice = "copy the whole bundle again"
    try:
        envelope = json.loads((folder / MANIFEST).read_text())
        payload, expected = envelope["payload"], envelope["sha256"]
        version = (envelope["format"], envelope["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{MANIFEST} cannot be read ({error}): {advice}") from None
    if version != (BUNDLE_FORMAT, BUNDLE_VERSION):
        raise BundleError(f"{MANIFEST} is {version}, not {(BUNDLE_FORMAT, BUNDLE_VERSION)}: {advice}")
    if payload_sha256(payload) != expected:
        raise BundleError(f"{MANIFEST} was changed after the bundle was packed: {advice}")
    for name, digest in sorted(payload["files"].items()):
        if not (folder / name).is_file():
            raise BundleError(f"{name} is missing: {advice}")
        if file_sha256(folder / name) != digest:
            raise BundleError(f"{name} was changed after the bundle was packed: {advice}")
    return payload


def write_results(path: Path, bundle: dict[str, Any], manifest_hash: str, state: State) -> dict[str, Any]:
    """Write all that a journal holds as one file, under its final name only when it is whole."""
    digests = [kernel["digest"] for kernel in bundle["kernels"]]
    payload = {
        "bundle": manifest_hash,
        "sessions": state.sessions,
        "sentinel": state.sentinels,
        "kernels": [state.kernels[digest].to_dict() for digest in digests if digest in state.kernels],
        "networks": [state.networks[n["name"]] for n in bundle["networks"] if n["name"] in state.networks],
        "missing": [digest for digest in digests if digest not in state.kernels],
    }
    envelope = {
        "format": RESULTS_FORMAT,
        "version": RESULTS_VERSION,
        "sha256": payload_sha256(payload),
        "payload": payload,
    }
    temporary = path.with_name(path.name + ".tmp")
    with gzip.open(temporary, "wt") as file:
        json.dump(envelope, file, sort_keys=True, allow_nan=False)
    temporary.replace(path)
    return payload


def main() -> None:
    """Measure, or serve as the process that runs kernels."""
    folder = Path(__file__).resolve().parent
    if sys.argv[1:2] == [CHILD_FLAG]:
        child_main(folder, sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description="Times the kernels of this bundle on this machine and writes results.json.gz, to be"
        " carried back and read by `hwprune carry read`. Can be interrupted; run again, it goes on, and"
        " times again what failed or was disturbed."
    )
    parser.add_argument("--out", type=Path, default=folder, help="where journal and results are written")
    parser.add_argument("--cores", help="cores to measure on, e.g. 2,3 (default: the last ones)")
    parser.add_argument(
        "--timeout", type=float, help="seconds that one kernel may take; slow devices need more"
    )
    parser.add_argument("--check", action="store_true", help="only check the bundle and this machine")
    options = parser.parse_args()
    try:
        sys.exit(_measure(folder, options))
    except (BundleError, KernelError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _measure(folder: Path, options: argparse.Namespace) -> int:
    bundle = read_bundle(folder)
    device = describe_device()
    why = unfit(bundle["needs"], cpu_flags(), device.cores)
    if why:
        raise BundleError(why)
    threads = int(bundle["needs"]["threads"])
    cores = [int(c) for c in options.cores.split(",")] if options.cores else measuring_cores(threads)
    if len(cores) != threads:
        raise BundleError(f"--cores names {len(cores)} cores, the kernels use {threads} threads")
    counts = f"{len(bundle['kernels'])} kernels, {len(bundle['networks'])} networks"
    say(f"{counts}; device {device.slug}, cores {', '.join(map(str, cores))}")
    if options.check:
        return 0
    if options.timeout:
        for profile in (bundle["profile"], bundle["network_profile"]):
            profile["job_timeout_s"] = options.timeout
    manifest_hash = file_sha256(folder / MANIFEST)
    options.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.out / JOURNAL, manifest_hash)
    others = {session["device"]["slug"] for session in journal.state.sessions} - {device.slug}
    if others:
        raise BundleError(
            f"{options.out / JOURNAL} was begun on {others.pop()}, this is {device.slug}: give another --out"
        )
    warning = load_warning(device.cores)
    if warning:
        say(f"warning: {warning}")
    journal.add(
        SESSION,
        bundle=manifest_hash,
        device=device.to_dict(),
        cores=cores,
        system=platform.platform(),
        python=platform.python_version(),
        command=sys.argv,
        at=utc_now(),
    )
    child = [CHILD_FLAG, ",".join(map(str, cores)), str(threads)]
    command = [sys.executable, str(Path(__file__).resolve()), *child]
    runner = BundleRunner(bundle, cores, lambda: KernelProcess(command, threads))
    sweep = CarriedSweep(bundle, journal, runner, _progress())
    interrupted = False
    try:
        sweep.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        journal.add(END, conditions=sweep.observed())
        results = write_results(options.out / RESULTS, bundle, manifest_hash, journal.state)
        journal.close()
    return _summary(results, int(bundle["profile"]["passes"]), options.out / RESULTS, interrupted)


def _summary(results: dict[str, Any], passes: int, path: Path, interrupted: bool) -> int:
    kernels = results["kernels"]
    failed = [kernel for kernel in kernels if kernel["failure"]]
    disturbed = [kernel for kernel in kernels if not kernel["failure"] and len(kernel["parts"]) < passes]
    good = len(kernels) - len(failed) - len(disturbed)
    others = f"{len(disturbed)} disturbed, {len(failed)} failed, {len(results['missing'])} missing"
    say(f"{good} kernels timed, {others}")
    for kernel in failed:
        say(f"failed: {kernel['digest']}: {kernel['failure']}")
    for why in sorted({str(kernel["why"]) for kernel in disturbed}):
        say(f"disturbed: {why}")
    for network in results["networks"]:
        if network["failure"] or network["disturbed"]:
            say(f"network {network['name']}: {network['failure'] or network['disturbed']}")
    if interrupted:
        say("interrupted: run the same command to go on")
    elif disturbed:
        say("run the same command on a quieter machine to time again what was disturbed")
    say(f"written: {path}; carry it back")
    return 1 if interrupted else 0


def say(text: str) -> None:
    """A line for whoever watches."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _progress() -> Callable[[int, int, str], None]:
    """One line that is written over on a terminal, else a line every few seconds."""
    begun = time.monotonic()
    last = [0.0]
    terminal = sys.stdout.isatty()

    def tell(done: int, total: int, label: str) -> None:
        now = time.monotonic()
        if now - last[0] < (0.1 if terminal else 5.0) and done != total:
            return
        last[0] = now
        left = f", {(now - begun) / done * (total - done):.0f} s left" if done else ""
        text = f"{done}/{total}{left}: {label}"[:100]
        sys.stdout.write(f"\r{text:<100}" + ("\n" if done == total else "") if terminal else text + "\n")
        sys.stdout.flush()

    return tell
