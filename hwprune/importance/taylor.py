"""First-order Taylor importance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from torch import nn

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.data import batch_loss
from hwprune.importance.gates import with_gates
from hwprune.importance.modes import in_mode
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, register
from hwprune.importance.units import members_with_role, parameters_of, sum_by_unit

Form = Literal["gate", "consumers"]
#: Gradient of one minibatch's loss with respect to each group's gate.
GateGradient = Callable[[Batch, Loss | None], dict[str, torch.Tensor]]


@register
class Taylor2019(Criterion):
    """Squared first-order estimate of the loss change when a unit is removed.

    Parameters
    ----------
    form
        Where the removal is imagined. ``"gate"``: at the group's last tap, where all its
        producers are normalised and summed. ``"consumers"``: at every layer that reads the
        channel, which is what surgery does; the derivative is ``sum(w * dL/dw)`` over the
        consumers' weights for the channel. The two agree where one tensor feeds all consumers
        through ReLU and pooling; in a residual stage only the second sees the blocks inside.

    Notes
    -----
    The score is the mean over minibatches of ``(dL/dz)^2``, where ``L`` is the mean loss of a
    minibatch and ``z`` the factor on the channel; BatchNorm is in evaluation mode.
    """

    name: ClassVar[str] = "taylor2019"
    data_need: ClassVar[DataNeed] = "labelled"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019"

    def __init__(self, form: Form = "gate") -> None:
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
            make = _gate_gradient if self.form == "gate" else _consumer_gradient
            gradient = make(captured, deps, self.name)
            for batch in data:
                for name, value in gradient(batch, loss).items():
                    totals[name] += value.cpu().double() ** 2
                count += 1
        return {name: total / count for name, total in totals.items()}


def _gate_gradient(captured: Captured, deps: Dependencies, criterion: str) -> GateGradient:
    gated, gates = with_gates(captured, deps)

    def gradient(batch: Batch, loss: Loss | None) -> dict[str, torch.Tensor]:
        value = batch_loss(gated, batch, loss, criterion=criterion)
        return _grads(value, gates)

    return gradient


def _consumer_gradient(captured: Captured, deps: Dependencies, criterion: str) -> GateGradient:
    members = {g.name: members_with_role(g, "consumer", criterion) for g in deps.groups}
    own = parameters_of(captured)
    names = {member.param for group in members.values() for member in group}
    # Detached twins: frozen weights get a gradient too, and nobody's .grad is touched.
    weights = {name: own[name].detach().requires_grad_() for name in sorted(names)}

    def gradient(batch: Batch, loss: Loss | None) -> dict[str, torch.Tensor]:
        model = _Substituted(captured.graph, weights)
        grads = _grads(batch_loss(model, batch, loss, criterion=criterion), weights)
        products = {name: grads[name] * weights[name].detach() for name in weights}
        return {
            g.name: torch.stack(
                [sum_by_unit(products[m.param], m.dim, m.runs, g.size) for m in members[g.name]]
            ).sum(0)
            for g in deps.groups
        }

    return gradient


class _Substituted(nn.Module):
    """A model that runs with other tensors in the place of some parameters."""

    def __init__(self, model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._call = lambda args, kwargs: torch.func.functional_call(model, weights, args, kwargs)

    def forward(self, *args: object, **kwargs: object) -> object:
        return self._call(args, kwargs)


def _grads(
    value: torch.Tensor, inputs: dict[str, torch.Tensor] | dict[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Gradients by name; zero where the loss does not depend on an input."""
    tensors = list(inputs.values())
    if not value.requires_grad:
        return {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}
    found = torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, (g.detach() for g in found), strict=True))
