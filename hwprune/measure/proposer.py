"""Who proposes schedules for a kernel that is tuned."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hwprune.errors import MissingExtraError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.measure.process import WorkerProcess
from hwprune.target import Target

#: Proposing takes seconds; longer than this it has hung.
PROPOSE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Proposal:
    """Forms to time next (none: there are no more), and how many were timed before."""

    choices: tuple[Choice, ...]
    trials: int


class Proposer(Protocol):
    """Proposes forms of one kernel after the other."""

    def begin(self, spec: KernelSpec) -> None:
        """Turn to a kernel."""
        ...

    def propose(self) -> Proposal:
        """The next round of forms of this kernel."""
        ...

    def learn(self, seconds: Sequence[float | None]) -> None:
        """Take their times; None for a form that failed."""
        ...

    def best(self, count: int) -> tuple[Choice, ...]:
        """The fastest forms so far, those of earlier runs included."""
        ...

    def close(self) -> None:
        """Free processes."""
        ...


def require_tuner() -> None:
    """Refuse to tune without the packages that it needs.

    Raises
    ------
    MissingExtraError
        The learned cost model's package is not installed.
    """
    if importlib.util.find_spec("xgboost") is None:
        raise MissingExtraError(
            "tuning needs xgboost, which is not installed",
            hint="pip install 'hwprune[tune]'",
        )


class MetaScheduleProposer:
    """TVM's MetaSchedule in processes that may crash.

    Parameters
    ----------
    target
        What kernels are built for.
    directory
        Where the trials of each kernel are kept, so that later runs go on from there.
    threads
        Threads that proposing may use.
    seed, count
        Of the random numbers; forms per round.
    """

    def __init__(self, target: Target, directory: Path, threads: int, seed: int, count: int) -> None:
        self._target, self._directory = target.model_dump(mode="json"), directory
        self._seed, self._count = seed, count
        # Only kernels of TVM's importer need torch.
        self._workers = {
            importing: WorkerProcess([], threads, "tune worker", hidden=[] if importing else ["torch"])
            for importing in (False, True)
        }
        self._worker = self._workers[False]

    def begin(self, spec: KernelSpec) -> None:
        """See :class:`Proposer`."""
        self._worker = self._workers[spec.anchor == "fallback"]
        arguments = {
            "spec": spec.canonical(),
            "target": self._target,
            "directory": str(self._directory / spec.digest()),
            "seed": self._seed,
            "count": self._count,
        }
        engine = "hwprune.compile.metaschedule:Proposer"
        load = {"do": "load", "engine": engine, "arguments": arguments}
        self._worker.request(load, PROPOSE_TIMEOUT_S)

    def propose(self) -> Proposal:
        """See :class:`Proposer`."""
        answer = self._ask("propose")
        return Proposal(tuple(Choice.from_dict(c) for c in answer["choices"]), int(answer["trials"]))

    def learn(self, seconds: Sequence[float | None]) -> None:
        """See :class:`Proposer`."""
        self._ask("learn", seconds=list(seconds))

    def best(self, count: int) -> tuple[Choice, ...]:
        """See :class:`Proposer`."""
        return tuple(Choice.from_dict(c) for c in self._ask("best", count=count)["choices"])

    def close(self) -> None:
        """See :class:`Proposer`."""
        for worker in self._workers.values():
            worker.close()

    def _ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self._worker.request(
            {"do": "ask", "method": method, "arguments": arguments}, PROPOSE_TIMEOUT_S
        )
