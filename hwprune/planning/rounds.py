"""What iterative pruning must remember to go on where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwprune.errors import ArtifactError, RepairError
from hwprune.repair.checkpoint import load_checkpoint, save_checkpoint
from hwprune.repair.state import model_tensors
from hwprune.solve.plan import Plan

#: File of the state of a run, in its directory.
STATE_FILE = "rounds.checkpoint"


@dataclass(frozen=True)
class Round:
    """One round of iterative pruning.

    Attributes
    ----------
    number
        From 1.
    share
        Budget as a share of the dense latency.
    latency_ns
        Predicted after the cut; None where the model met the budget already and was not cut.
    widths
        Units of every group after the cut.
    cut_metric, fitted_metric, trained_metric
        What ``evaluate`` says after the cut alone, after layers were fitted behind it, and after the
        training; None without it, and where nothing was fitted.
    fit
        What the fit did, as :meth:`hwprune.repair.after_cut.RepairReport.to_dict` has it; None where there
        was none.
    """

    number: int
    share: float
    latency_ns: float | None
    widths: dict[str, int]
    cut_metric: float | None = None
    fitted_metric: float | None = None
    trained_metric: float | None = None
    fit: dict[str, Any] | None = None


@dataclass
class RoundState:
    """A run between two stages: ``cut`` says whether the current round's cut is done.

    Without a ``directory`` nothing is written. ``generators`` are those that the training data are drawn by:
    a run that is taken up draws what it would have drawn.
    """

    directory: Path | None
    options: dict[str, Any]
    generators: Sequence[torch.Generator] = ()
    number: int = 0
    cut: bool = False
    dense_ns: float | None = None
    dense_metric: float | None = None
    shares: tuple[float, ...] = ()
    rounds: list[Round] = field(default_factory=list[Round])
    plan: Plan | None = None
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    average: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def path(self) -> Path | None:
        """File of the state."""
        return None if self.directory is None else self.directory / STATE_FILE

    def training_path(self) -> Path | None:
        """File of the training in the current round."""
        return None if self.directory is None else self.directory / f"train-{self.number + 1}.checkpoint"

    def scores_path(self) -> Path | None:
        """File of the scores that build up in the current round."""
        return None if self.directory is None else self.directory / f"scores-{self.number + 1}.checkpoint"

    def remember(self, model: nn.Module, average: dict[str, Tensor]) -> None:
        """Take the weights and scores of now, and write everything."""
        self.average = dict(average)
        self.weights = {name: value.detach().cpu().clone() for name, value in model_tensors(model).items()}
        if self.path is None:
            return
        tensors = {f"weights:{name}": value for name, value in self.weights.items()}
        tensors |= {f"average:{name}": value for name, value in self.average.items()}
        tensors |= {f"generator:{i}": each.get_state() for i, each in enumerate(self.generators)}
        scalars: dict[str, Any] = {
            "options": self.options,
            "number": self.number,
            "cut": self.cut,
            "dense_ns": self.dense_ns,
            "dense_metric": self.dense_metric,
            "shares": list(self.shares),
            "rounds": [dataclasses.asdict(each) for each in self.rounds],
            "plan": None if self.plan is None else self.plan.model_dump(mode="json"),
        }
        save_checkpoint(self.path, tensors, scalars)

    def recall(self) -> bool:
        """Take up what was written; False where nothing was.

        Raises
        ------
        ArtifactError
            The file is damaged.
        RepairError
            It belongs to a run with other options, or of another model.
        """
        if self.path is None or not self.path.exists():
            return False
        tensors, scalars = load_checkpoint(self.path)
        try:
            before = scalars["options"]
            changed = sorted(key for key, value in self.options.items() if value != before.get(key))
            if changed:
                raise RepairError(
                    f"{self.path} was written with other {', '.join(changed)}",
                    hint=f"use the same to go on, or delete {self.directory} to start again",
                )
            self.number, self.cut = scalars["number"], scalars["cut"]
            self.dense_ns, self.shares = scalars["dense_ns"], tuple(scalars["shares"])
            self.dense_metric = scalars["dense_metric"]
            self.rounds = [Round(**each) for each in scalars["rounds"]]
            written = scalars["plan"]
            self.plan = None if written is None else Plan.read(written, self.path)
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{self.path} lacks {error}", hint="delete it to start again") from error
        self.weights = _part(tensors, "weights:")
        self.average = _part(tensors, "average:")
        drawn = _part(tensors, "generator:")
        for number, generator in enumerate(self.generators):
            if str(number) in drawn:
                generator.set_state(drawn[str(number)])
        return True

    def forget_training(self) -> None:
        """Remove the files of a round that is finished."""
        for path in (self.training_path(), self.scores_path()):
            if path is not None:
                path.unlink(missing_ok=True)


def forget_rounds(directory: Path) -> None:
    """Remove what a run wrote, once its result is in a safe place; anything else there stays."""
    for path in directory.glob("*.checkpoint"):
        path.unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()


class Entries:
    """Scores of minibatches of one round by training step, on disk after each.

    A resumed training begins at a step that may lie before the last entries: these are dropped.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.by_step: dict[int, dict[str, Tensor]] = {}
        if path is not None and path.exists():
            for name, value in load_checkpoint(path)[0].items():
                step, _, group = name.partition(":")
                self.by_step.setdefault(int(step), {})[group] = value

    def add(self, step: int, scores: dict[str, Tensor]) -> None:
        """Scores after a step."""
        self.by_step = {each: value for each, value in self.by_step.items() if each < step}
        self.by_step[step] = scores
        if self._path is not None:
            tensors = {f"{s}:{g}": v for s, found in self.by_step.items() for g, v in found.items()}
            save_checkpoint(self._path, tensors, {})

    def in_order(self) -> list[dict[str, torch.Tensor]]:
        """All entries, by step."""
        return [self.by_step[step] for step in sorted(self.by_step)]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
