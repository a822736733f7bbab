"""One kernel's tuning: rounds of new forms raced against the form it has now.

A form that wins by more than noise and gives the default's result takes the present one's place at
once, and the next rounds must beat it. So whatever was found is kept wherever tuning stops.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwprune.errors import MeasureError
from hwprune.latency.choice import Choice, choice_label
from hwprune.latency.kernel import KernelSpec
from hwprune.measure.build import Builder, BuildJob
from hwprune.measure.judge import Judge, faster
from hwprune.measure.proposer import Proposer
from hwprune.measure.rotation import copies_for

#: Largest difference from the default's output, relative to the largest output.
TOLERANCE = 1e-4
#: Forms of earlier runs that are raced before anything new is tried.
EARLIER = 3

_log = logging.getLogger(__name__)


@dataclass
class Standing:
    """What is known about a kernel that is tuned.

    ``trials`` were timed in this run, ``earlier`` in runs before, ``failed`` could not be built,
    run, or gave other results; ``medians_ns`` are those of the last race of the present form by label;
    ``gain`` is the first form's time over the present one's, ``ended`` says that nothing is left
    to try.
    """

    choice: Choice | None
    first: Choice | None
    trials: int = 0
    earlier: int = 0
    failed: int = 0
    error: float = 0.0
    gain: float = 1.0
    ended: bool = False
    medians_ns: dict[str, float] | None = None


class Contest:
    """Tunes one kernel.

    Parameters
    ----------
    spec
        The kernel.
    present
        The form that it has now; None is the default.
    builder, judge, proposer
        Who builds, races and proposes forms.
    scratch
        Directory for libraries.
    seed
        Of the order of turns and of the arguments that results are compared on.
    """

    def __init__(
        self,
        spec: KernelSpec,
        present: Choice | None,
        builder: Builder,
        judge: Judge,
        proposer: Proposer,
        scratch: Path,
        seed: int,
    ) -> None:
        self.spec, self.standing = spec, Standing(present, present)
        self._builder, self._judge, self._proposer = builder, judge, proposer
        self._scratch, self._seed, self._number = scratch, seed, 0
        self._default = self._job(None)
        self._present = self._default

    def begin(self) -> bool:
        """Build the present form and race what earlier runs have found; whether a form won.

        Raises
        ------
        MeasureError
            The present form cannot be built, or no schedules can be proposed for this kernel.
        """
        wanted = [self._default]
        if self.standing.choice is not None:
            self._present = self._job(self.standing.choice)
            wanted.append(self._present)
        failures = [failure for _, failure in self._builder.build(wanted) if failure is not None]
        if failures:
            raise MeasureError(f"its present form cannot be built: {failures[0]}")
        self._proposer.begin(self.spec)
        known = [c for c in self._proposer.best(EARLIER) if c != self.standing.choice]
        return self._round(known)[0] if known else False

    def round(self) -> bool:
        """Try the next forms; whether one of them replaced the present one.

        Raises
        ------
        MeasureError
            No schedules can be proposed.
        """
        proposal = self._proposer.propose()
        if not proposal.choices:
            self.standing.ended = True
            return False
        self.standing.earlier = proposal.trials
        won, seconds = self._round(proposal.choices)
        self._proposer.learn(seconds)
        self.standing.trials += len(proposal.choices)
        return won

    def end(self) -> None:
        """Remove libraries."""
        kept, self._present = self._present, self._default
        self._remove([kept])
        for path in (self._default.path, self._default.path.with_suffix(".json")):
            path.unlink(missing_ok=True)

    def _round(self, choices: Sequence[Choice]) -> tuple[bool, list[float | None]]:
        """Build and race forms: whether one won, and the seconds of each."""
        jobs = [self._job(choice) for choice in choices]
        built = {job.path for job, failure in self._builder.build(jobs) if failure is None}
        group, samples = self._raced([job for job in jobs if job.path in built])
        medians = {job.path: statistics.median(s) for job, s in zip(group, samples, strict=True)}
        seconds = [medians[job.path] / 1e9 if job.path in medians else None for job in jobs]
        self.standing.failed += seconds.count(None)
        winner = self._winner(group, samples)
        if winner is not None:
            beaten, self._present = self._present, winner
            self.standing.choice = winner.choice
            self.standing.gain *= medians[beaten.path] / medians[winner.path]
            self.standing.medians_ns = {
                choice_label(job.choice): medians[job.path] for job in (beaten, winner)
            }
            self._remove([beaten])
        self._remove(jobs)
        return winner is not None, seconds

    def _raced(self, jobs: Sequence[BuildJob]) -> tuple[list[BuildJob], list[list[float]]]:
        """The present form and those jobs that could be raced, with their samples.

        A form that crashes takes the others' race with it, so these are then raced in halves.
        """
        group = [self._present, *jobs]
        if not jobs:
            return [], []
        try:
            return group, self._judge.race(group, self._seed)
        except MeasureError as error:
            _log.info("a race of %s failed: %s", self.spec.label(), error.message)
        if len(jobs) == 1:
            return [], []
        middle = len(jobs) // 2
        first, second = self._raced(jobs[:middle]), self._raced(jobs[middle:])
        survivors = [*first[0][1:], *second[0][1:]]
        if not survivors or len(survivors) == len(jobs):
            return [], []  # none of them, or nobody in particular: the machine is to blame
        return self._raced(survivors)

    def _winner(self, group: Sequence[BuildJob], samples: Sequence[Sequence[float]]) -> BuildJob | None:
        """The fastest form that beats the present one and gives the default's result."""
        for i in faster(samples) if samples else ():
            try:
                error = self._judge.error(self._default, group[i], self._seed)
            except MeasureError as failure:
                _log.warning("form dropped: the check failed: %s", failure.message)
            else:
                if error <= TOLERANCE:
                    self.standing.error = error
                    return group[i]
                _log.warning("form dropped: it differs from the default by %.1e of the output", error)
            self.standing.failed += 1
        return None

    def _job(self, choice: Choice | None) -> BuildJob:
        self._number += 1
        name = f"{self.spec.digest()}-tune{self._number}.so"
        return BuildJob(self.spec, self._scratch / name, copies_for(self.spec), choice)

    def _remove(self, jobs: Sequence[BuildJob]) -> None:
        """Remove libraries but those of the default and the present form."""
        for job in jobs:
            if job not in (self._default, self._present):
                for path in (job.path, job.path.with_suffix(".json")):
                    path.unlink(missing_ok=True)
