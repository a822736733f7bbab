import os
import re

import pytest

from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.measure.device import describe_device, describe_files, device_slug, measuring_cores, usable_cores
from hwprune.measure.guard import CoreTimes, disturbance, drift, load_warning, parse_stat, read_core_times
from hwprune.measure.rotation import copies_for, sentinel_spec
from tests.measure.fakes import conv, linear

STAT = """cpu  1000 0 100 5000 10 0 0 50 0 0
cpu0 100 10 20 600 5 1 2 30 7 0
cpu1 200 0 40 500 0 0 0 10 0 0
cpu10 9 9 9 9 9 9 9 9 9 9
intr 12345
"""


def test_parse_stat_takes_the_named_cores_only():
    assert parse_stat(STAT, [1]) == (240, 10, 750)
    assert parse_stat(STAT, [0, 1]) == (133 + 240, 40, 768 + 750)
    assert parse_stat(STAT, [7]) == (0, 0, 0)


def test_disturbance():
    before, after = CoreTimes(100, 5, 1000, 50, 7), CoreTimes(190, 15, 1200, 120, 7)
    found = disturbance(before, after)
    assert (found.foreign, found.steal) == (20 / 200, 10 / 200)
    assert found.share == pytest.approx(0.15)
    # our own ticks may be booked a moment later than the core's: never negative
    assert disturbance(before, CoreTimes(110, 5, 1200, 70, 7)).foreign == 0
    # another worker: its past is unknown
    assert disturbance(before, CoreTimes(190, 5, 1200, 1, 8)).foreign == 0
    assert disturbance(None, after).share == 0
    assert disturbance(before, before).share == 0


def test_own_work_is_not_foreign():
    cores = usable_cores()
    before = read_core_times(cores, os.getpid())
    sum(i * i for i in range(2_000_000))
    after = read_core_times(cores, os.getpid())
    assert before is not None and after is not None
    assert after.own > before.own
    assert after.total > before.total
    assert read_core_times(cores, 2**22 + 5) is not None  # a worker that is gone


def test_drift_and_load(monkeypatch: pytest.MonkeyPatch):
    assert drift(100.0, 112.0) == pytest.approx(0.12)
    assert drift(100.0, 90.0) == pytest.approx(-0.1)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0, 0))
    assert "1.5 on 2 cores" in str(load_warning(2))
    assert load_warning(4) is None


def test_device_is_stable_and_safe_as_a_file_name():
    device = describe_device()
    assert device.slug == device_slug()
    assert re.fullmatch(r"[a-z0-9-]+", device.slug)
    assert device.cores == len(usable_cores())
    assert device.to_dict()["slug"] == device.slug


def test_a_container_with_fewer_cores_is_the_same_kind_of_machine(tmp_path):
    (tmp_path / "proc").mkdir()
    listed = "".join(f"processor\t: {i}\nmodel name\t: Some CPU\nflags\t: sse avx2\n\n" for i in range(4))
    (tmp_path / "proc/cpuinfo").write_text(listed)
    whole, part = (describe_files(tmp_path, "x86_64", cores) for cores in (4, 1))
    assert whole.slug == part.slug
    assert "-4c-" in part.slug
    assert part.cores == 1


def test_last_cores_are_measured_on():
    assert measuring_cores(1) == usable_cores()[-1:]
    assert measuring_cores(len(usable_cores())) == usable_cores()


def test_copies():
    # 32 MiB of weights are rotated. 256 KiB: 128 sets, clamped
    assert copies_for(linear(256, 256)) == 64
    # 2 MiB -> 16; a little less -> 17
    assert copies_for(linear(512, 1024)) == 16
    assert copies_for(linear(511, 1024)) == 17
    # 64 MiB of weights still rotate through four sets; 392 MiB only through two (1 GiB in all)
    assert copies_for(linear(4096, 4096)) == 4
    assert copies_for(linear(4096, 25088)) == 2
    assert copies_for(linear(20000, 20000)) == 1
    pool = KernelSpec((KernelInput((1, 64, 112, 112), "data"),), (KernelOp("relu", (0,)),))
    assert copies_for(pool) == 11
    assert copies_for(KernelSpec((KernelInput((1, 64), "data"),), (KernelOp("relu", (0,)),))) == 64
    # 147 KiB of weights at 56x56 do 1568 operations a byte: where they come from does not matter
    assert copies_for(conv(64, 64, 56)) == 4
    assert copies_for(conv(8, 8, 56)) == 54
    # 590 KiB at 28x28 (392 a byte) it does, but 57 sets would take too long: 2 GFLOP / 231 MFLOP
    assert copies_for(conv(128, 128, 28)) == 8
    # 9.4 MB at 7x7: 32 MiB rotated
    assert copies_for(conv(512, 512, 7)) == 4
    assert copies_for(conv(256, 256, 7)) == 15
    # what the compiler does not know is for the build to refuse
    assert copies_for(KernelSpec((KernelInput((1, 64), "data"),), (KernelOp("erf", (0,)),))) == 64


def test_sentinel_is_a_valid_spec():
    spec = sentinel_spec()
    assert KernelSpec.parse(spec.canonical()) == spec
    assert spec.anchor == "conv2d"
    assert spec != conv(64, 64, 28)
