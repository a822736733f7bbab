"""Sharing out kernels over devices, with devices that are made up."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hwprune.errors import DeviceLostError, MeasureError
from hwprune.measure.conditions import Conditions
from hwprune.measure.runners.base import Farm, measure_each
from hwprune.measure.runners.rpc_farm import RpcFarm
from hwprune.measure.sampling import Sampled
from hwprune.measure.stopping import MeasureProfile
from tests.measure.fakes import FAST, InlineRunner

LIBRARIES = [Path(f"{n}.so") for n in range(12)]


class FakeDevice:
    """``script(library, n)`` says what the n-th kernel does: seconds, or an exception."""

    threads, fixed = 1, True

    def __init__(self, name: str, script: Callable[[Path, int], float | Exception]) -> None:
        self.name, self._script = name, script
        self.timed: list[Path] = []
        self.gone = self.closed = False
        self.heat = 40.0

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        if self.gone:
            raise DeviceLostError(f"{self.name} is gone")
        self.timed.append(library)
        result = self._script(library, len(self.timed))
        if isinstance(result, DeviceLostError):
            self.gone = "dies" in str(result)
        if isinstance(result, Exception):
            raise result
        return Sampled([result * 1e9] * 3, 1, 1, 0.0, None, None)

    def alive(self) -> bool:
        return not self.gone

    def conditions(self) -> Conditions:
        return Conditions("now", governor="performance", temperature_c=self.heat, throttled=1)

    def close(self) -> None:
        self.closed = True


def farm(*devices: FakeDevice) -> RpcFarm:
    return RpcFarm(devices, "the farm")  # type: ignore[arg-type]


def steady(seconds: float) -> Callable[[Path, int], float]:
    return lambda library, n: seconds


def dies_at(count: int) -> Callable[[Path, int], float | Exception]:
    return lambda library, n: DeviceLostError("it dies") if n == count else 1.0


def test_every_library_is_timed_once_by_one_of_the_devices():
    one, two = FakeDevice("one", steady(1.0)), FakeDevice("two", steady(1.0))
    runner = farm(one, two)
    assert isinstance(runner, Farm)
    found = dict(measure_each(runner, LIBRARIES, FAST))
    runner.close()
    assert set(found) == set(LIBRARIES)
    assert sorted(one.timed + two.timed) == sorted(LIBRARIES)
    assert one.timed and two.timed
    assert one.closed and two.closed


def test_what_a_dying_device_had_is_timed_by_the_others(caplog: pytest.LogCaptureFixture):
    one, two = FakeDevice("one", dies_at(3)), FakeDevice("two", steady(1.0))
    runner = farm(one, two)
    outcomes = list(runner.measure_each(LIBRARIES, FAST))
    assert sorted(path for path, _ in outcomes) == sorted(LIBRARIES)
    assert all(isinstance(sampled, Sampled) for _, sampled in outcomes)
    assert one.timed[-1] in two.timed
    assert "it dies; 1 of 2 devices are left" in caplog.text
    # A device that is back takes part again.
    one.gone, before = False, len(one.timed)
    assert len(list(runner.measure_each(LIBRARIES, FAST))) == 12
    assert len(one.timed) > before
    runner.close()


def test_without_devices_the_sweep_ends_and_keeps_what_it_has():
    runner = farm(FakeDevice("one", dies_at(3)), FakeDevice("two", dies_at(4)))
    found: list[Path] = []
    with pytest.raises(DeviceLostError, match="no device is left of the farm: it dies") as caught:
        for path, _ in runner.measure_each(LIBRARIES, FAST):
            found.append(path)
    assert "run the same command again" in str(caught.value)
    assert len(found) == len(set(found)) == 5
    with pytest.raises(DeviceLostError, match="no device is left"):
        runner.measure(LIBRARIES[0], FAST)
    runner.close()


def test_a_kernel_that_breaks_connections_fails_alone():
    def script(library: Path, n: int) -> float | Exception:
        return DeviceLostError("the connection broke off") if library == LIBRARIES[2] else 1.0

    one, two = FakeDevice("one", script), FakeDevice("two", script)
    runner = farm(one, two)
    found = dict(runner.measure_each(LIBRARIES, FAST))
    runner.close()
    failed = found.pop(LIBRARIES[2])
    assert isinstance(failed, MeasureError) and not isinstance(failed, DeviceLostError)
    assert failed.message == "it cost 2 connections; the connection broke off"
    assert len(found) == 11 and all(isinstance(sampled, Sampled) for sampled in found.values())


def test_a_kernel_s_own_failure_is_not_tried_again():
    def script(library: Path, n: int) -> float | Exception:
        return MeasureError("cannot be loaded") if library == LIBRARIES[0] else 1.0

    device = FakeDevice("one", script)
    runner = farm(device)
    found = dict(runner.measure_each(LIBRARIES, FAST))
    runner.close()
    assert str(found[LIBRARIES[0]]) == "cannot be loaded"
    assert device.timed.count(LIBRARIES[0]) == 1


def test_a_single_library_takes_as_long_as_on_the_slowest_device(caplog: pytest.LogCaptureFixture):
    devices = [FakeDevice("fast", steady(1.0)), FakeDevice("slow", steady(1.25))]
    runner = farm(*devices)
    assert runner.measure(LIBRARIES[0], FAST).samples_ns[0] == 1.25e9
    assert "devices of the farm differ by 25 %: fast 1000000.0 us, slow 1250000.0 us" in caplog.text
    assert all(device.timed == LIBRARIES[:1] for device in devices)
    devices[1].gone = True
    assert runner.measure(LIBRARIES[0], FAST).samples_ns[0] == 1e9
    runner.close()


def test_conditions_are_those_of_all_devices():
    devices = [FakeDevice("one", steady(1.0)), FakeDevice("two", steady(1.0))]
    devices[1].heat = 71.0
    runner = farm(*devices)
    together = runner.conditions()
    runner.close()
    assert together is not None
    assert (together.temperature_c, together.throttled, together.governor) == (71.0, 2, "performance")


def test_a_tracker_s_device_that_disappeared_unnoticed_is_told(caplog: pytest.LogCaptureFixture):
    runner = RpcFarm(
        [FakeDevice("a", steady(1.0)), FakeDevice("b", steady(1.0))],  # type: ignore[list-item]
        "devices 'x'",
        lambda: 1,
    )
    assert len(list(runner.measure_each(LIBRARIES, FAST))) == 12
    runner.close()
    assert "1 of 2 devices 'x' are left" in caplog.text


def test_one_device_alone_needs_no_farm(tmp_path: Path):
    class Runner(InlineRunner):
        def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
            if library == LIBRARIES[1]:
                raise MeasureError("bad library")
            if library == LIBRARIES[3]:
                raise DeviceLostError("gone")
            return Sampled([1.0], 1, 1, 0.0, None, None)

    found: list[tuple[Path, Sampled | MeasureError]] = []
    with pytest.raises(DeviceLostError, match="gone"):
        found.extend(measure_each(Runner(), LIBRARIES, FAST))
    outcomes = measure_each(Runner(), LIBRARIES[:3], FAST)
    assert [isinstance(outcome, Sampled) for _, outcome in outcomes] == [True, False, True]
