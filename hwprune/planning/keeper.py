"""Scores that build up while a model is trained between two cuts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import Dependencies
from hwprune.importance.allocation import Allocation
from hwprune.importance.batches import Batch
from hwprune.importance.momentum import Momentum
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss
from hwprune.importance.scoring import score
from hwprune.pruned import Subject


class Kept(Criterion):
    """The scores of a keeper, under the name of the criterion that they come from."""

    data_need: ClassVar[DataNeed] = "none"
    paper: ClassVar[str] = ""

    def __init__(self, keeper: ScoreKeeper) -> None:
        of = keeper.criterion
        self.name = of.name  # pyright: ignore[reportAttributeAccessIssue]
        self.comparability: Comparability = of.comparability  # pyright: ignore[reportIncompatibleVariableOverride]
        self._keeper = keeper

    @property
    def label(self) -> str:
        """That of the criterion: a keeper is no parameter that could be written down."""
        return self._keeper.criterion.label

    @property
    def gives_widths(self) -> bool:
        return self._keeper.criterion.gives_widths

    @property
    def allocation(self) -> Allocation | None:
        return self._keeper.criterion.allocation

    def score(
        self, captured: Captured, deps: Dependencies, data: Iterable[Batch] | None, *, loss: Loss | None
    ) -> dict[str, Tensor]:
        return self._keeper.scores(captured, deps)


class ScoreKeeper:
    """The running average of a criterion over minibatches, training steps and cuts.

    Parameters
    ----------
    criterion
        One that needs data builds up. One that needs none is computed anew before each cut, and so is one
        that gives floors, from all batches: floors are no average over minibatches.
    batches
        What is scored, one after the other and then from the beginning.
    momentum
        What the average keeps of itself with each scored minibatch.
    loss
        As for criteria.
    """

    def __init__(
        self, criterion: Criterion, batches: Sequence[Any], *, momentum: float, loss: Loss | None
    ) -> None:
        self.criterion, self.batches, self.loss = criterion, batches, loss
        self.momentum = momentum
        self.average: dict[str, Tensor] = {}

    @property
    def builds_up(self) -> bool:
        """Whether there is anything to be averaged."""
        return self.criterion.data_need != "none" and not self.criterion.gives_widths

    def scores(self, captured: Captured, deps: Dependencies) -> dict[str, Tensor]:
        """What the next cut goes by; at first, and where groups have changed, the mean over all batches."""
        sizes = {group.name: group.size for group in deps.groups}
        if not self.builds_up or {name: len(value) for name, value in self.average.items()} != sizes:
            self.average = self._of(captured, deps, self.batches)
        return dict(self.average)

    def minibatch(self, subject: Subject, number: int) -> dict[str, Tensor]:
        """Scores of one minibatch by the weights of now."""
        return self._of(subject.captured, subject.deps, [self.batches[number % len(self.batches)]])

    def take(self, entries: Iterable[Mapping[str, Tensor]]) -> None:
        """Move the average by scores of minibatches, in their order."""
        running = Momentum(self.momentum, every=1)
        running.average = dict(self.average)
        for entry in entries:
            running.add(entry)
        self.average = running.value()

    def keep(self, kept: Mapping[str, Sequence[int]]) -> None:
        """Forget units that were cut."""
        self.average = {
            name: value[torch.tensor(kept[name])] if name in kept else value
            for name, value in self.average.items()
        }

    def _of(self, captured: Captured, deps: Dependencies, batches: Sequence[Any]) -> dict[str, Tensor]:
        return score(
            captured,
            deps,
            self.criterion,
            batches if self.criterion.data_need != "none" else None,
            loss=self.loss,
            batches=max(1, len(batches)),
        )


def refresh(subject: Subject, model: nn.Module) -> bool:
    """Give a captured graph the weights that a model has now; False where their names differ."""
    now = named_tensors(model)
    graph = subject.captured.graph
    own = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    if any(name not in now or now[name].shape != value.shape for name, value in own.items()):
        return False
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(now[name])
    return True
