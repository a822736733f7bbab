"""Workers and the sentinel that several sweeps share."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from hwprune.errors import MeasureError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.table import LatencyTable
from hwprune.measure.build import Builder, BuildPool
from hwprune.measure.outcome import ProfileReport
from hwprune.measure.process import WorkerProcess
from hwprune.measure.profile import profile
from hwprune.measure.rotation import sentinel_spec
from hwprune.measure.runners.base import Runner
from hwprune.measure.runners.local import LocalRunner
from hwprune.measure.sentinel import SENTINEL_TIMINGS
from hwprune.measure.site import LocalSite
from hwprune.measure.values import Checker, Verdict
from hwprune.measure.workshop import Workshop
from hwprune.target import Target
from tests.measure import fakes
from tests.measure.fakes import QUIET, TARGET, InlineBuilder, InlineRunner, conv
from tests.measure.test_sweep_guards import InlineChecker

SENTINEL = sentinel_spec()


class Closing(InlineRunner):
    closed = 0

    def close(self) -> None:
        self.closed += 1


class Bench(LocalSite):
    """Hands out builders, runners and checkers of this process, and remembers them."""

    def __init__(self, verdicts: dict[KernelSpec, Verdict] | None = None) -> None:
        self.builders: list[InlineBuilder] = []
        self.runners: list[Closing] = []
        self.checkers: list[InlineChecker] = []
        self.verdicts = verdicts

    def require(self, target: Target) -> None: ...

    def builder(self, target: Target) -> Builder:
        self.builders.append(InlineBuilder())
        return self.builders[-1]

    def runner(self, target: Target) -> Runner:
        self.runners.append(Closing())
        return self.runners[-1]

    def checker(self, target: Target) -> Checker | None:
        self.checkers.append(InlineChecker(self.verdicts))
        return self.checkers[-1]


class Elsewhere(Bench):
    """A device that others may want between two sweeps."""

    shared = True


def kill(pid: int) -> None:
    """End a child of this process, and wait until it has ended."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def sweep(workshop: Workshop, directory: Path, *widths: int, **options: object) -> ProfileReport:
    options = {"profile": QUIET, "pipeline": "abc", **options}
    specs = [conv(w) for w in widths]
    return profile(specs, TARGET, directory, workshop=workshop, **options)  # type: ignore[arg-type]


def test_sweeps_share_workers_and_one_sentinel(tmp_path: Path):
    site = Bench()
    with Workshop(site, TARGET) as workshop:
        assert sweep(workshop, tmp_path, 8, 16).measured == 2
        assert sweep(workshop, tmp_path, 8, 24).measured == 1
        assert sweep(workshop, tmp_path, 32).measured == 1
        (builder,), (runner,) = site.builders, site.runners
        assert builder.built.count(SENTINEL.digest()) == 1
        # Once settled; after that one look for drift behind every sweep's only pass.
        assert runner.timed.count(SENTINEL.digest()) == SENTINEL_TIMINGS + 3
        assert runner.closed == 0
    assert runner.closed == 1
    assert {row.digest for row in LatencyTable.load(tmp_path)} == {
        SENTINEL.digest(),
        *(conv(w).digest() for w in (8, 16, 24, 32)),
    }


def test_every_table_has_a_pace_of_its_own(tmp_path: Path):
    site = Bench()
    with Workshop(site, TARGET) as workshop:
        sweep(workshop, tmp_path / "a", 8)
        sweep(workshop, tmp_path / "b", 8)
        sweep(workshop, tmp_path / "b", 16)
        timed = site.runners[0].timed.count(SENTINEL.digest())
        assert timed == 2 * SENTINEL_TIMINGS + 3
        assert site.builders[0].built.count(SENTINEL.digest()) == 1


def test_a_sentinel_that_became_another_is_settled_anew(tmp_path: Path):
    site = Bench()
    with Workshop(site, TARGET) as workshop:
        sweep(workshop, tmp_path, 8)
        # The machine is a third faster from now on: its row is replaced, and so is the pace.
        site.runners[0]._factor = lambda spec, n: 0.66  # pyright: ignore[reportPrivateUsage]
        sweep(workshop, tmp_path, 16)
        before = len(site.runners[0].timed)
        sweep(workshop, tmp_path, 24)
        timed = site.runners[0].timed[before:]
        assert timed[:SENTINEL_TIMINGS] == [SENTINEL.digest()] * SENTINEL_TIMINGS


def test_workers_stay_until_the_outermost_end(tmp_path: Path):
    site = Bench()
    workshop = Workshop(site, TARGET)
    sweep(workshop, tmp_path, 8)
    assert site.runners[0].closed == 1
    with workshop:
        with workshop:
            sweep(workshop, tmp_path, 16)
        sweep(workshop, tmp_path, 24)
        assert [runner.closed for runner in site.runners] == [1, 0]
    assert [runner.closed for runner in site.runners] == [1, 1]
    assert len(site.builders) == 2


def test_after_an_exception_everything_starts_anew(tmp_path: Path):
    def interrupt(done: int, total: int, label: str) -> None:
        if done:
            raise KeyboardInterrupt

    site = Bench()
    with Workshop(site, TARGET) as workshop:
        with pytest.raises(KeyboardInterrupt, match="interrupted: 1 of 3 kernels are saved"):
            sweep(workshop, tmp_path, 8, 16, 24, progress=interrupt)
        assert site.runners[0].closed == 1
        report = sweep(workshop, tmp_path, 8, 16, 24)
        assert (report.skipped, report.measured) == (1, 2)
        assert len(site.builders) == len(site.runners) == 2


def test_a_sentinel_is_checked_once_and_before_it_is_trusted(tmp_path: Path):
    careful = replace(QUIET, check_values=True)
    site = Bench()
    with Workshop(site, TARGET) as workshop:
        sweep(workshop, tmp_path / "a", 8)  # does not ask for values
        assert not site.checkers
        sweep(workshop, tmp_path / "a", 16, profile=careful)
        sweep(workshop, tmp_path / "a", 24, profile=careful)
        (checker,) = site.checkers
        assert checker.checked == [SENTINEL, conv(16), conv(24)]
    wrong = Bench({SENTINEL: Verdict("returned wrong values")})
    with Workshop(wrong, TARGET) as workshop:
        sweep(workshop, tmp_path / "b", 8)
        for _ in range(2):
            with pytest.raises(MeasureError, match="no kernel can be trusted"):
                sweep(workshop, tmp_path / "b", 16, profile=careful)


def test_devices_that_others_use_are_let_go_after_every_sweep(tmp_path: Path):
    site = Elsewhere()
    with Workshop(site, TARGET) as workshop:
        sweep(workshop, tmp_path, 8)
        assert [runner.closed for runner in site.runners] == [1]
        sweep(workshop, tmp_path, 16)
        assert [runner.closed for runner in site.runners] == [1, 1]
        assert len(site.builders) == 1
        assert site.builders[0].built.count(SENTINEL.digest()) == 1


def test_what_was_given_is_left_open(tmp_path: Path):
    runner = Closing()
    with Workshop(Bench(), TARGET, builder=InlineBuilder(), runner=runner) as workshop:
        sweep(workshop, tmp_path, 8)
    assert runner.closed == 0
    assert workshop.checker is None


class Processes(Bench):
    """Real worker processes with made-up kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.local: list[LocalRunner] = []

    def builder(self, target: Target) -> Builder:
        return BuildPool(target, function="tests.measure.fakes:fake_build", processes=1)

    def runner(self, target: Target) -> Runner:
        self.local.append(LocalRunner(1, engine="tests.measure.fakes:FakeEngine"))
        return self.local[-1]


def test_crashes_cost_a_kept_workshop_one_kernel_each(tmp_path: Path):
    site = Processes()
    with Workshop(site, TARGET) as workshop:
        bad = (fakes.CRASHING_BUILD, fakes.CRASHING_RUN)
        report = sweep(workshop, tmp_path, 8, *bad, profile=fakes.FAST)
        assert set(report.failures) == {conv(w).digest() for w in bad}
        assert report.measured == 1
        first = site.local[0].about()["pid"]
        assert sweep(workshop, tmp_path, 16, profile=fakes.FAST).measured == 1
        # One that dies while nobody asks it anything is nobody's fault.
        kill(first)
        report = sweep(workshop, tmp_path, 24, profile=fakes.FAST)
        assert (report.measured, report.failures) == (1, {})
        assert site.local[0].about()["pid"] != first
        assert len(site.local) == 1


def test_a_worker_that_died_idle_is_replaced():
    with WorkerProcess([], 1) as worker:
        first = worker.request({"do": "about"}, 20)["pid"]
        kill(first)
        assert worker.request({"do": "about"}, 20)["pid"] != first
