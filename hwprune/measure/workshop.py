"""What every sweep over a target's kernels needs, kept from one sweep to the next.

A plan or an adaptive profile asks for a few kernels again and again. Importing a compiler in every build
worker, building the sentinel kernel and finding its pace took longer than such a sweep's own kernels.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from hwprune.errors import MeasureError
from hwprune.latency.choice import Choice
from hwprune.latency.rows import Row
from hwprune.measure.build import Builder, BuildJob
from hwprune.measure.pace import Pace
from hwprune.measure.rotation import copies_for, sentinel_spec
from hwprune.measure.runners.base import Runner
from hwprune.measure.site import Site
from hwprune.measure.values import Checker
from hwprune.target import Target

#: A sentinel whose time in the table has changed by more than this share has another pace, too.
SAME_TIME = 1e-3


class Workshop:
    """Builder, checker, runner and sentinel of one target at one site.

    Nothing is started before it is asked for. It is a context manager that may be entered again inside
    itself: the workers end with the outermost ``with``, or with the first exception (an interrupt in the
    middle of a build must not leave that build to go on); whatever is asked for afterwards starts anew.
    Workers die with the thread that started them, so one thread uses a workshop.

    Parameters
    ----------
    site
        Where kernels run.
    target
        What they are built for.
    builder, runner, checker
        Used instead of the site's, and left open. With a builder that is not the site's, what kernels
        return is compared with a reference only by a checker that is given as well.
    """

    def __init__(
        self,
        site: Site,
        target: Target,
        *,
        builder: Builder | None = None,
        runner: Runner | None = None,
        checker: Checker | None = None,
    ) -> None:
        self.site, self.target = site, target
        self._given = (builder, runner, checker)
        self._depth = 0
        self._forget()

    @property
    def builder(self) -> Builder:
        """Builds kernel libraries."""
        if self._builder is None:
            self._builder = self.site.builder(self.target)
            self._open.callback(self._builder.close)
        return self._builder

    @property
    def runner(self) -> Runner:
        """Times kernel libraries.

        Raises
        ------
        TargetError
            The target cannot be timed at this site.
        """
        if self._runner is None:
            self.site.require(self.target)
            self._runner = self.site.runner(self.target)
        return self._runner

    @property
    def checker(self) -> Checker | None:
        """Compares what built libraries return with a reference; None where that cannot be done."""
        if not self._has_checker:
            self._has_checker = True
            self._checker = self.site.checker(self.target)
            if self._checker is not None:
                self._open.callback(self._checker.close)
        return self._checker

    def sentinel(self, choice: Choice | None, checker: Checker | None) -> BuildJob:
        """The built library of the sentinel kernel, in the form that the table has chosen for it.

        Parameters
        ----------
        choice
            The form; None is the default.
        checker
            Compares what it returns with a reference, unless that was done before.

        Raises
        ------
        MeasureError
            It cannot be built, or returns wrong values: then no kernel could be trusted.
        """
        job = self._sentinels.get(choice)
        if job is None:
            spec = sentinel_spec()
            job = BuildJob(
                spec, self._scratch() / f"sentinel-{len(self._sentinels)}.so", copies_for(spec), choice
            )
            for _, failure in self.builder.build([job]):
                if failure is not None:
                    raise MeasureError(
                        f"no kernel can be built for this target: {failure}",
                        hint="check the compiler set-up; the kernel tried is a plain 3x3 convolution",
                    )
            self._sentinels[choice] = job
        if checker is not None and choice not in self._checked:
            for _, verdict in checker.check([job]):
                if verdict.complaint is not None:
                    raise MeasureError(
                        f"no kernel can be trusted on this target: a plain 3x3 convolution"
                        f" {verdict.complaint}",
                        hint="run the tests of hwprune.compile for this target",
                    )
            self._checked.add(choice)
        return job

    def settled(self, directory: Path, row: Row, pace: Pace) -> None:
        """Remember the pace that goes with the sentinel's row in a table."""
        self._pace = (directory, row, pace)

    def pace_of(self, directory: Path, row: Row) -> Pace | None:
        """The pace that goes with the sentinel's row in a table, if an earlier sweep has found it."""
        if self._pace is None:
            return None
        place, known, pace = self._pace
        same = place == directory and known.choice == row.choice
        return pace if same and math.isclose(known.median, row.median, rel_tol=SAME_TIME) else None

    def close(self) -> None:
        """End all workers, also in the middle of a build; what is asked for later starts anew."""
        kept, runner = self._open, None if self._runner is self._given[1] else self._runner
        self._forget()
        with kept:
            if runner is not None:
                runner.close()

    def __enter__(self) -> Workshop:
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0 or kind is not None:
            self.close()

    def let_go(self) -> None:
        """Let go of devices that others may be waiting for, as after every sweep; keep this machine's."""
        if self.site.shared and self._runner is not self._given[1]:
            runner, self._runner = self._runner, None
            if runner is not None:
                runner.close()

    def _forget(self) -> None:
        self._open = ExitStack()
        self._builder, self._runner, self._checker = self._given
        self._has_checker = self._checker is not None or self._builder is not None
        self._folder: Path | None = None
        self._sentinels: dict[Choice | None, BuildJob] = {}
        self._checked: set[Choice | None] = set()
        self._pace: tuple[Path, Row, Pace] | None = None

    def _scratch(self) -> Path:
        if self._folder is None:
            self._folder = Path(
                self._open.enter_context(tempfile.TemporaryDirectory(prefix="hwprune-sentinel-"))
            )
        return self._folder
