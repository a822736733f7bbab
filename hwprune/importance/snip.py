"""Connection sensitivity, for whole units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, get_args

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.data import batch_loss
from hwprune.importance.gatespace import GateSpace, Vectors
from hwprune.importance.modes import in_mode
from hwprune.importance.products import MassProducts
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.silence import reject_silence

Form = Literal["consumers", "gate", "mass"]


@register
class Snip(Criterion):
    """Absolute derivative of the loss with respect to a factor on the unit, of sum 1 over the network.

    Meant for networks at their initialisation, before any training; it works on trained ones as well.

    Parameters
    ----------
    form
        ``"consumers"``: the factor is at every layer that reads the unit. ``"gate"``: it is on the
        group's last tap. ``"mass"``: instead, the absolute sensitivities of all weights and biases that
        make or read the unit are summed.

    Notes
    -----
    The paper takes one minibatch; of several, the sensitivities are averaged. BatchNorm and dropout
    are in evaluation mode. The paper draws the weights anew after pruning.
    """

    name: ClassVar[str] = "snip"
    data_need: ClassVar[DataNeed] = "labelled"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = (
        "Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019"
    )
    formula: ClassVar[str] = "|∂L/∂z| / Σ |∂L/∂z|, z a factor on the unit at every layer that reads it"
    origin: ClassVar[Origin] = "adapted"
    cost: ClassVar[str] = "one forward and one backward pass a batch"

    def __init__(self, form: Form = "consumers") -> None:
        if form not in get_args(Form):
            raise UsageError(f"snip has no form {form!r}", hint=f"use {' or '.join(get_args(Form))}")
        self.form: Form = form

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        totals = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in deps.groups}
        with in_mode(captured.graph, training=False), torch.enable_grad():
            if self.form == "mass":
                products = MassProducts(captured, deps, self.name)
                model, derive = products.model, products.scores
            else:
                space = GateSpace(captured, deps, self.form)
                model, derive = space.model, space.gradient
            for batch in data:
                for name, value in _shares(
                    derive(batch_loss(model, batch, loss, criterion=self.name))
                ).items():
                    totals[name] += value
        reject_silence(totals, self.name)
        return _shares(totals)


def _shares(values: Vectors) -> Vectors:
    """Absolute values of sum 1 over all groups; zeros stay zeros."""
    sizes = {name: value.detach().cpu().double().abs() for name, value in values.items()}
    total = sum(float(value.sum()) for value in sizes.values())
    return {name: value / total for name, value in sizes.items()} if total > 0 else sizes
