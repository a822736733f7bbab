"""First-order Taylor importance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import nn

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Dependencies, Member
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.data import batch_loss
from hwprune.importance.gates import with_gates
from hwprune.importance.modes import in_mode
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.units import parameters_of, sum_by_unit

Form = Literal["gate", "consumers"]


@register
class Taylor2019(Criterion):
    """Squared first-order estimate of the loss change when a unit is removed.

    Parameters
    ----------
    form
        Where the removal is imagined.

        ``"consumers"``: at every layer that reads the unit, which is what surgery does. The
        derivative is ``sum(w * dL/dw)`` over the consumers' weights for the unit (the joint form
        of the paper over these weights). A group without such weights is gated.

        ``"gate"``: at the group's last tap, where all its producers are normalised and summed
        (the paper's gates). The two agree where one tensor feeds all consumers through ReLU and
        pooling; in a stage of residual blocks a gate on the last sum does not see the blocks
        before it, and follows the true loss change less well.

    Notes
    -----
    The score is the mean over minibatches of ``(dL/dz)^2``, where ``L`` is the mean loss of a
    minibatch and ``z`` the factor on the unit; BatchNorm is in evaluation mode.
    """

    name: ClassVar[str] = "taylor2019"
    data_need: ClassVar[DataNeed] = "labelled"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019"
    formula: ClassVar[str] = "mean over batches of (Σ w·∂L/∂w)² over the consumers' weights for the unit"
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "one forward and one backward pass a batch"

    def __init__(self, form: Form = "consumers") -> None:
        if form not in ("gate", "consumers"):
            raise UsageError(f"taylor2019 has no form {form!r}", hint="use gate or consumers")
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
        count = 0
        with in_mode(captured.graph, training=False), torch.enable_grad():
            removal = RemovalGradient(captured, deps, form=self.form)
            for batch in data:
                value = batch_loss(removal.model, batch, loss, criterion=self.name)
                for name, gradient in removal(value).items():
                    totals[name] += gradient.cpu() ** 2
                count += 1
        return {name: total / count for name, total in totals.items()}


class RemovalGradient:
    """Derivative of a loss with respect to a factor (now 1) on each unit, at the consumers or a gate.

    Compute the loss with ``model``, under ``torch.enable_grad`` and in the mode that is wanted,
    then call this object on it. No parameter's ``.grad`` is touched, and frozen parameters serve
    as well.
    """

    def __init__(self, captured: Captured, deps: Dependencies, *, form: Form) -> None:
        self._read: dict[str, tuple[int, list[Member]]] = {}
        gated: list[ChannelGroup] = []
        for group in deps.groups:
            members = {(m.param, m.dim): m for m in group.members if m.role == "consumer"}
            if form == "consumers" and members:
                self._read[group.name] = (group.size, list(members.values()))
            else:
                gated.append(group)
        own = parameters_of(captured)
        names = {member.param for _, members in self._read.values() for member in members}
        self._weights = {name: own[name].detach().requires_grad_() for name in sorted(names)}
        graph, self._gates = (
            with_gates(captured, replace(deps, groups=tuple(gated))) if gated else (captured.graph, {})
        )
        self.model: nn.Module = _Substituted(graph, self._weights)

    def __call__(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """Per group a float64 vector ``[size]``."""
        grads = _grads(loss, {**self._weights, **{f"gate of {n}": g for n, g in self._gates.items()}})
        out = {name: grads[f"gate of {name}"].double() for name in self._gates}
        products = {name: grads[name] * weight.detach() for name, weight in self._weights.items()}
        for name, (size, members) in self._read.items():
            parts = [sum_by_unit(products[m.param], m.dim, m.runs, size) for m in members]
            out[name] = torch.stack(parts).sum(0)
        return out


class _Substituted(nn.Module):
    """A model that runs with other tensors in the place of some parameters."""

    def __init__(self, model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._call = lambda args, kwargs: torch.func.functional_call(model, weights, args, kwargs)

    def forward(self, *args: object, **kwargs: object) -> object:
        return self._call(args, kwargs)


def _grads(value: torch.Tensor, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients by name; zero where the loss does not depend on an input."""
    if not inputs or not value.requires_grad:
        return {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}
    found = torch.autograd.grad(value, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))
