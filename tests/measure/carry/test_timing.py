"""The order of things on the device, with made-up kernels and a made-up clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwprune.measure.carry.device import timing
from hwprune.measure.carry.device.journal import NETWORK, SESSION, Journal
from hwprune.measure.carry.device.timing import CarriedSweep
from hwprune.measure.carry.device.worker import KernelError
from hwprune.measure.conditions import Conditions
from hwprune.measure.guard import CoreTimes
from hwprune.measure.runners.base import Provenance, Unit
from hwprune.measure.sampling import Sampled
from hwprune.measure.stopping import MeasureProfile
from tests.measure.fakes import QUIET

KERNELS = [f"k{number}" for number in range(6)]


class Machine:
    """Stands for :class:`BundleRunner`. ``speed`` gives the factor at the n-th timing."""

    unit: Unit = "ns"
    provenance: Provenance = "measured"
    threads = 1

    def __init__(self, speed: Callable[[int], float] = lambda n: 1.0) -> None:
        self.timed: list[str] = []
        self.broken: set[str] = set()
        self.closed = 0
        self.tells_pace = False
        self.busy: Callable[[], float] = lambda: 0.0
        self._speed, self._ticks, self._foreign = speed, 0, 0.0

    def check_runtime(self) -> None:
        return

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        name = library.as_posix()
        self.timed.append(name)
        self._ticks += 100
        self._foreign += 100 * self.busy()
        if name in self.broken:
            raise KernelError("it crashed")
        factor = self._speed(len(self.timed))
        pace = [50.0 * factor] * 5 if self.tells_pace else []
        return Sampled([1000.0 * factor] * 5, 1, 1, 0.1, 1.0, None, pace_ns=pace)

    def core_times(self) -> CoreTimes:
        return CoreTimes(int(self._foreign), 0, self._ticks, 0, 1)

    def conditions(self) -> Conditions:
        return Conditions("now")

    def close(self) -> None:
        self.closed += 1

    def time_networks(
        self, files: dict[str, str], *_: Any
    ) -> tuple[dict[str, list[float]], dict[str, str], None]:
        return {name: [5.0] for name in files}, {}, None


def packed(name: str) -> dict[str, Any]:
    return {"digest": name, "label": name, "file": name}


BUNDLE = {
    "profile": QUIET.to_dict(),
    "network_profile": QUIET.to_dict(),
    "seed": 0,
    "sentinel": packed("sentinel"),
    "kernels": [packed(name) for name in KERNELS],
    "networks": [{"name": "dense", "file": "dense"}],
}


def sweep(machine: Machine, journal: Journal, profile: MeasureProfile = QUIET) -> CarriedSweep:
    journal.add(SESSION, bundle="b")
    bundle = {**BUNDLE, "profile": profile.to_dict()}
    return CarriedSweep(bundle, journal, machine, lambda done, total, label: None)  # type: ignore[arg-type]


def good(journal: Journal, name: str) -> bool:
    kernel = journal.state.kernel(name)
    return kernel.failure is None and bool(kernel.parts)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal", "b")


def test_everything_is_timed_once_in_random_order_with_the_sentinel_around_it(journal: Journal):
    machine = Machine()
    sweep(machine, journal).run()
    kernels = [name for name in machine.timed if name != "sentinel"]
    assert sorted(kernels) == KERNELS and kernels != KERNELS
    assert machine.timed[:3] == ["sentinel"] * 3 and machine.timed[-1] == "sentinel"
    assert all(good(journal, name) for name in KERNELS) and journal.state.good_network("dense")
    before = len(machine.timed)
    sweep(machine, journal).run()
    assert len(machine.timed) == before, "a second run has nothing to do"


def test_kernel_that_fails_is_noted_and_the_others_go_on(journal: Journal):
    machine = Machine()
    machine.broken = {"k3"}
    sweep(machine, journal).run()
    assert [name for name in KERNELS if not good(journal, name)] == ["k3"]
    assert journal.state.kernel("k3").failure == "it crashed"
    machine.broken.clear()
    sweep(machine, journal).run()
    assert good(journal, "k3"), "a later run tries it again"


def test_batch_in_unrest_is_timed_again(journal: Journal):
    machine = Machine()
    machine.busy = lambda: 0.9 if len(machine.timed) < 8 else 0.0
    sweep(machine, journal).run()
    assert all(machine.timed.count(name) == 2 for name in KERNELS)
    assert all(good(journal, name) for name in KERNELS)


def test_lasting_unrest_is_said_and_not_paid_for_twice(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "BATCH", 3)
    machine = Machine()
    machine.busy = lambda: 0.9
    sweep(machine, journal).run()
    assert not any(good(journal, name) for name in KERNELS)
    assert "other processes 90%" in (journal.state.kernel("k0").why or "")
    assert sorted(machine.timed.count(name) for name in KERNELS) == [1, 1, 1, 2, 2, 2]


def test_kernels_are_timed_in_passes_with_all_others_in_between(journal: Journal):
    machine = Machine()
    sweep(machine, journal, replace(QUIET, passes=3, max_passes=5)).run()
    kernels = [name for name in machine.timed if name != "sentinel"]
    rounds = [kernels[start : start + 6] for start in (0, 6, 12)]
    assert len(kernels) == 18 and all(sorted(order) == KERNELS for order in rounds)
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]
    assert [len(journal.state.kernel(name).parts) for name in KERNELS] == [3] * 6


def test_machine_that_gets_slower_spoils_what_it_times(journal: Journal):
    machine = Machine(lambda n: 1.0 if n <= 5 else 1.3)
    sweep(machine, journal).run()
    assert "drifted by +30%" in (journal.state.kernel("k0").why or "")


def test_machine_that_gets_faster_spoils_what_was_timed_before(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timing, "BATCH", 3)
    machine = Machine(lambda n: 1.0 if n <= 7 else 0.7)
    sweep(machine, journal).run()
    early = set(machine.timed[3:6])
    assert {name for name in KERNELS if not good(journal, name)} == early
    assert all("drifted by -30% since" in (journal.state.kernel(name).why or "") for name in early)
    assert journal.state.reference == pytest.approx(700)
    sweep(machine, journal).run()
    assert all(good(journal, name) for name in KERNELS), "a later run times them again"


def test_kernels_without_a_verdict_are_judged_by_the_next_run(journal: Journal):
    class Interrupted(Machine):
        def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
            if len(self.timed) == 6:
                raise KeyboardInterrupt
            return super().measure(library, profile)

    machine = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        sweep(machine, journal).run()
    assert machine.closed == 1
    unjudged = journal.state.unjudged()
    assert len(unjudged) == 3
    later = Machine(lambda n: 1.3 if n <= 4 else 1.0)
    sweep(later, journal).run()
    assert later.timed[0] == "sentinel"
    # The sentinel was slow when the judgement was made, so these were timed again.
    assert sorted(name for name in later.timed if name != "sentinel") == KERNELS
    assert all(journal.state.kernel(name).spoiled for name in unjudged)
    assert all(good(journal, name) for name in KERNELS)


def test_core_that_changes_its_speed_is_no_drift_where_its_pace_is_known(journal: Journal):
    machine = Machine(lambda n: 1.0 + 0.1 * (n % 5))
    machine.tells_pace = True
    sweep(machine, journal).run()
    assert all(good(journal, name) for name in KERNELS)
    times = {value for name in KERNELS for value in journal.state.kernel(name).parts[0]["samples_ns"]}
    assert len({round(value, 6) for value in times}) == 1
    assert all(journal.state.kernel(name).parts[0]["pace_ns"] for name in KERNELS)
    # A later run, on a core that is slower as a whole, brings its timings to the same pace.
    journal.state.kernels.pop("k0")
    slower = Machine(lambda n: 1.7)
    slower.tells_pace = True
    sweep(slower, journal).run()
    assert journal.state.kernel("k0").parts[0]["samples_ns"] == pytest.approx([next(iter(times))] * 5)


def test_network_that_was_disturbed_is_timed_again(journal: Journal):
    sweep(Machine(), journal).run()
    journal.add(NETWORK, name="dense", at="", samples_ns=[1.0], failure=None, disturbed="somebody else")
    assert not journal.state.good_network("dense")
    sweep(Machine(), journal).run()
    assert journal.state.good_network("dense")
