"""Real TVM RPC servers and a tracker on loopback; kernels are tiny."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprune.compile import KernelRunner, load_bundle
from hwprune.compile.pipeline import source_files
from hwprune.compile.remote import Endpoint, RemoteSession
from hwprune.compile.remote_program import RemoteProgram
from hwprune.errors import DeviceLostError, MeasureError, TargetError, UsageError
from hwprune.latency.table import LatencyTable
from hwprune.measure import rpc_look
from hwprune.measure.build import BuildJob, BuildPool
from hwprune.measure.device import describe_device
from hwprune.measure.profile import profile
from hwprune.measure.rotation import sentinel_spec
from hwprune.measure.rpc_site import RpcSite
from hwprune.measure.runners.rpc import RpcRunner
from hwprune.measure.runners.rpc_address import Address, RpcPlace, rpc_place
from hwprune.measure.runners.rpc_door import doors
from hwprune.measure.runners.rpc_files import is_emulated, ranked_cores
from hwprune.measure.runners.rpc_networks import time_networks
from hwprune.measure.runners.rpc_tracker import Tracker
from hwprune.measure.sampling import Sampled
from hwprune.measure.sites import site_for
from hwprune.target import Target, load_target
from tests.measure.fakes import FAST, IMPATIENT, conv

SPECS = [conv(w, 8, 8) for w in range(8, 64, 8)]
CRASHING = conv(8, 8, 6)


class Servers:
    """A tracker with two devices ``key``, and a device of its own."""

    key = "loopback"

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.measure.rpc_servers", str(folder), self.key, "2"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert self._process.stdout is not None
        self._ports = self._process.stdout

    def wait(self) -> None:
        ports: dict[str, Any] = json.loads(self._ports.readline())
        self.tracker = Address("127.0.0.1", ports["tracker"])
        self.pids = [device["pid"] for device in ports["devices"]]
        self.alone = Address("127.0.0.1", ports["devices"][-1]["port"])

    def kill(self, device: int) -> None:
        os.killpg(self.pids[device], signal.SIGKILL)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


class Prebuilt:
    """Builder that takes libraries from a folder; ``bad`` ones are replaced by what crashes."""

    def __init__(self, folder: Path, bad: Sequence[str] = ()) -> None:
        self._folder, self._bad = folder, bad

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, str | None]]:
        for job in jobs:
            source = self._folder / f"{job.spec.digest()}.so"
            shutil.copy(source.with_suffix(".json"), job.path.with_suffix(".json"))
            crash = job.spec.digest() in self._bad
            shutil.copy(self._folder / "crash.so" if crash else source, job.path)
            yield job, None

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target("host", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rpc")


@pytest.fixture(scope="module")
def servers(folder: Path, target: Target) -> Iterator[Servers]:
    """Started while the libraries are built."""
    started = Servers(folder)
    pool = BuildPool(target, processes=1)
    try:
        specs = [*SPECS, CRASHING, sentinel_spec()]
        jobs = [BuildJob(spec, folder / f"{spec.digest()}.so", 4) for spec in specs]
        assert not [failure for _, failure in pool.build(jobs) if failure]
        started.wait()
        yield started
    finally:
        pool.close()
        started.close()


@pytest.fixture(scope="module")
def site(servers: Servers, target: Target) -> RpcSite:
    return RpcSite(RpcPlace(servers=(servers.alone,)), target)


@pytest.fixture(scope="module")
def runner(site: RpcSite) -> Iterator[RpcRunner]:
    seen = rpc_look.look(site.place, load_target("host"))
    made = RpcRunner(doors(site.place)[0], 1, seen.probe)
    yield made
    made.close()


def test_the_device_describes_itself_as_it_would_on_its_own(site: RpcSite, target: Target):
    site.require(target)
    device, here = site.device(), describe_device()
    assert device.slug == here.slug + "-rpc"
    assert (device.cpu, device.caches, device.cores) == (here.cpu, here.caches, here.cores)
    assert site.reached() == {"runner": "rpc", "servers": str(site.place.servers[0])}


def test_results_and_statistics_are_those_of_a_local_run(runner: RpcRunner, folder: Path):
    library = folder / f"{SPECS[3].digest()}.so"
    sampled = runner.measure(library, FAST)
    assert len(sampled.samples_ns) >= 4 and min(sampled.samples_ns) > 0
    assert sampled.cpu_share is not None and 0 < sampled.cpu_share < 10
    assert sampled.nonfinite == 0
    with runner.session("RemoteRunner", 20.0, path=str(library)) as ask:
        # two runs of four calls each, and the evaluator's own
        assert len(ask("turn", number=2, repeat=3)["samples_ns"]) == 3
        remote = np.array(ask("values")["outputs"][0], np.float32)
    assert np.array_equal(remote, KernelRunner(library).output().ravel())


def test_long_arguments_are_made_on_the_device(site: RpcSite):
    address = site.place.servers[0]
    session = RemoteSession(Endpoint(address.host, address.port), 20.0)
    block = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    for length in (7, 4096, 3 * 4096 + 5, 1_000_003):
        found = session.array(session.repeated(block, length))
        assert np.array_equal(found, np.resize(block, length))


def test_weights_do_not_share_memory(site: RpcSite, folder: Path):
    # They are handed over as one piece of memory: a machine that kept that would find all in its cache.
    address = site.place.servers[0]
    session = RemoteSession(Endpoint(address.host, address.port), 20.0)
    library = folder / f"{SPECS[3].digest()}.so"
    info = json.loads(library.with_suffix(".json").read_text())
    shapes = [tuple(shape) for shape in [*info["inputs"], *info["weights"]]]
    longest = max(int(np.prod(shape)) for shape in shapes)
    numbers = session.tensor(np.full(longest, 0.5, np.float32))
    program = RemoteProgram(session, library, [session.view(numbers, s) for s in shapes], 1, info["copies"])
    before = program.outputs()[0]
    session.fill(numbers, np.zeros(longest, np.float32))
    program.time(1, 1)
    assert before.max() > 0 and np.array_equal(program.outputs()[0], before)


def test_networks_are_timed_in_one_session(runner: RpcRunner, folder: Path):
    libraries = {f"net{i}": folder / f"{spec.digest()}.so" for i, spec in enumerate(SPECS[:2])}
    found = time_networks(libraries, [runner], FAST)
    assert {name: summary.n for name, summary in found.items()} == {"net0": 6, "net1": 6}


def test_bundles_run_with_their_own_weights(site: RpcSite, target: Target, folder: Path):
    inputs = [np.random.default_rng(7).standard_normal((1, 3, 8, 8)).astype(np.float32)]
    expected = {name: load_bundle(folder / name).run(*inputs) for name in ("one", "two")}
    assert not np.allclose(expected["one"][0], expected["two"][0])
    assert np.array_equal(site.run_bundle(folder / "two", inputs, target)[0], expected["two"][0])
    bundles = {name: folder / name for name in ("one", "two")}
    found = site.compare_bundles(bundles, inputs, target, profile=FAST, expected={"two": expected["two"]})
    assert found.reference == "one" and found["one"].ratio.ratio == 1.0
    # Each with its own weights, though both libraries have the same name.
    assert found["two"].max_rel_error == 0.0
    assert found["two"].summary.n == FAST.rounds * FAST.samples_per_round
    assert site.compare_bundles(bundles, inputs, target, profile=FAST)["two"].max_rel_error > 0.1


def test_a_hanging_and_a_crashing_library_leave_the_device_in_service(runner: RpcRunner, folder: Path):
    good = folder / f"{SPECS[0].digest()}.so"
    for name, error, words in (
        ("hang", MeasureError, "did not end within 1.5 s"),
        ("crash", DeviceLostError, "broke off while loading crash.so"),
    ):
        shutil.copy(good.with_suffix(".json"), folder / f"{name}.json")
        with pytest.raises(error, match=words) as caught:
            runner.measure(folder / f"{name}.so", IMPATIENT)
        assert type(caught.value) is error
        assert runner.alive()
    assert isinstance(runner.measure(good, FAST), Sampled)


def test_a_kernel_that_crashes_is_reported_and_the_sweep_ends(
    site: RpcSite, target: Target, folder: Path, tmp_path: Path
):
    builder = Prebuilt(folder, bad=[CRASHING.digest()])
    report = profile(
        [*SPECS[:2], CRASHING], target, tmp_path, profile=FAST, site=site, builder=builder, retries=0
    )
    assert report.measured == 2
    assert "it cost 2 connections" in report.failures[CRASHING.digest()]
    assert str(LatencyTable.load(tmp_path).get(CRASHING).status).startswith("failed:")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rpc", "tracker", "key", "words"),
    [
        ("here", None, None, "'here' is not the address of a server"),
        ("here:70000", None, None, "'here:70000' is not the address"),
        ("a:1,a:1", None, None, "names a server twice"),
        ("a:1", "b:2", "c", "a server and a tracker were both given"),
        (None, "b:2", None, "which?"),
        (None, None, "c", "--tracker HOST:PORT"),
    ],
)
def test_bad_addresses_are_refused(rpc: str | None, tracker: str | None, key: str | None, words: str):
    with pytest.raises(UsageError) as caught:
        rpc_place(rpc, tracker, key)
    assert words in str(caught.value)


def test_the_environment_counts_for_targets_that_need_a_device(
    monkeypatch: pytest.MonkeyPatch, target: Target
):
    monkeypatch.setenv("HWPRUNE_TRACKER", "farm:9190")
    monkeypatch.setenv("HWPRUNE_RPC_KEY", "rpi4")
    board = load_target("aarch64-cortex-a72")
    site = site_for(board)
    assert isinstance(site, RpcSite)
    assert site.reached() == {"runner": "rpc", "tracker": "farm:9190", "key": "rpi4"}
    assert site_for(board, rpc="[::1]:9090").name == "[::1]:9090"
    assert site_for(target).name == "this machine"
    monkeypatch.undo()
    with pytest.raises(TargetError, match="give its address with --rpc HOST:PORT"):
        site_for(board).require(board)


def test_nobody_and_somebody_else_at_the_address(servers: Servers, target: Target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Address("127.0.0.1", free.getsockname()[1])
    with pytest.raises(DeviceLostError, match=rf"no RPC server answers at {nobody}: Connect to .* failed"):
        RpcSite(RpcPlace(servers=(nobody,)), target).device()
    with pytest.raises(DeviceLostError, match=f"no RPC tracker answers at {nobody}: Connection refused"):
        Tracker(nobody).keys()
    with pytest.raises(DeviceLostError, match="is not an RPC tracker"):
        Tracker(servers.alone).keys()
    with pytest.raises(DeviceLostError, match=f"no RPC server answers at {servers.tracker}"):
        RpcSite(RpcPlace(servers=(servers.tracker,)), target).device()


def test_a_key_that_no_device_has(servers: Servers, target: Target):
    site = RpcSite(RpcPlace(tracker=servers.tracker, key="rpi5"), target)
    with pytest.raises(DeviceLostError) as caught:
        site.device()
    assert f"no device 'rpi5' is registered with tracker {servers.tracker}" in str(caught.value)
    assert "it knows 'loopback' (2)" in str(caught.value)
    assert "--key rpi5" in str(caught.value)


def test_a_server_of_another_tvm(servers: Servers, target: Target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rpc_look.importlib.metadata, "version", lambda name: "0.99.1")
    with pytest.raises(MeasureError, match=r"runs TVM 0\.\d+\.\S+, kernels are built by TVM 0\.99\.1"):
        RpcSite(RpcPlace(servers=(servers.alone,)), target).device()


def test_an_architecture_that_is_not_the_target_s(servers: Servers):
    foreign = "aarch64-generic" if describe_device().architecture == "x86_64" else "x86-64-avx2"
    board = load_target(foreign)
    with pytest.raises(TargetError, match=rf"cannot run code for \w+ \(target '{foreign}'\)"):
        RpcSite(RpcPlace(servers=(servers.alone,)), board).require(board)


def test_instructions_and_cores_that_the_device_lacks(site: RpcSite, target: Target):
    site.device()
    seen = site._seen  # pyright: ignore[reportPrivateUsage]
    assert seen is not None
    poor = RpcSite(site.place, target)
    poor._seen = replace(seen, flags={"sse2"})  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(TargetError, match=r"which 127\.0\.0\.1:\d+ .* lacks"):
        poor.require(load_target("x86-64-avx2"))
    many = target.model_copy(update={"threads": 4096})
    with pytest.raises(TargetError, match="asks for 4096 threads"):
        site.require(many)


def test_a_device_that_is_emulated_may_compute_but_is_not_timed(site: RpcSite, target: Target):
    site.device()
    seen = site._seen  # pyright: ignore[reportPrivateUsage]
    assert seen is not None and not seen.emulated
    emulated = RpcSite(site.place, target)
    emulated._seen = replace(seen, emulated=True)  # pyright: ignore[reportPrivateUsage]
    emulated.require_fit(target)
    with pytest.raises(TargetError, match="is emulated"):
        emulated.require(target)
    x86, arm = {"/proc/cpuinfo": "vendor_id : x"}, {"/proc/cpuinfo": "CPU implementer : 0x41"}
    assert is_emulated(x86, "aarch64") and is_emulated(arm, "x86_64")
    assert not is_emulated(x86, "x86_64") and not is_emulated(arm, "aarch64")
    assert is_emulated({"/proc/self/status": "Name:\tqemu-aarch64\n", **arm}, "aarch64")


def test_the_fastest_cores_are_used():
    cpu = "/sys/devices/system/cpu"
    files = {"/proc/self/status": "Cpus_allowed_list:\t0-2,4,5\n"}
    assert ranked_cores(files) == [0, 1, 2, 4, 5]
    speeds = {0: 1400, 1: 1400, 2: 1800, 4: 1800, 5: 1400}
    files |= {f"{cpu}/cpu{core}/cpufreq/cpuinfo_max_freq": f"{mhz}000\n" for core, mhz in speeds.items()}
    assert ranked_cores(files) == [0, 1, 5, 2, 4]
    assert ranked_cores({f"{cpu}/online": "0-3\n"}) == [0, 1, 2, 3]
    assert ranked_cores({}) == []


def test_the_way_to_a_device_is_not_part_of_the_code_generator():
    assert not [path.name for path in source_files() if "remote" in path.name]


def test_a_farm_loses_a_device_half_way_and_nothing_else(
    servers: Servers, target: Target, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    place = RpcPlace(tracker=servers.tracker, key=servers.key)
    site = RpcSite(place, target)

    def progress(done: int, total: int, label: str) -> None:
        if done == total // 2 and not label.startswith("building"):
            servers.kill(0)

    builder = Prebuilt(folder)
    report = profile(
        SPECS, target, tmp_path, profile=FAST, site=site, builder=builder, retries=0, progress=progress
    )
    assert (report.measured, report.failures) == (len(SPECS), {})
    table = LatencyTable.load(tmp_path)
    assert all(table.lookup(spec, untrusted=True).median > 0 for spec in SPECS)
    assert f"1 of 2 devices 'loopback' of tracker {servers.tracker} are left" in caplog.text
    assert table.manifest.device["slug"] == site.device().slug
    assert table.manifest.sweeps[-1].reached == place.reached()
    # The last one goes as well: what has been measured stays.
    more = [conv(w, 8, 8) for w in (80, 88)]
    for spec in more:
        for ending in (".so", ".json"):
            shutil.copy(folder / f"{SPECS[0].digest()}{ending}", folder / f"{spec.digest()}{ending}")

    def last(done: int, total: int, label: str) -> None:
        if done == 1:
            servers.kill(1)

    with pytest.raises(DeviceLostError, match="no device is left of devices 'loopback'"):
        profile(
            [*more, *(conv(8, 8, 6),)],
            target,
            tmp_path,
            profile=FAST,
            site=site,
            builder=builder,
            progress=last,
        )
    assert len(list(LatencyTable.load(tmp_path))) >= len(SPECS) + 2
