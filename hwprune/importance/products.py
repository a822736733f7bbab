"""Weights times their gradients, summed by unit."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import ChannelGroup, Dependencies, Member
from hwprune.errors import CriterionError
from hwprune.importance.gates import with_gates
from hwprune.importance.units import sum_by_unit

_log = logging.getLogger(__name__)


class ParameterProducts(ABC):
    """Products ``w * dL/dw`` of some parameters of each group.

    Compute a loss with :attr:`model`, then ask for one of the sums.
    """

    form: ClassVar[str]

    def __init__(self, captured: Captured, deps: Dependencies, criterion: str) -> None:
        self.criterion = criterion
        own = named_tensors(captured.graph)
        self.members = {g.name: self.chosen(captured, g) for g in deps.groups}
        self.sizes = {g.name: g.size for g in deps.groups}
        bare = [g for g in deps.groups if not self.members[g.name]]
        if len(bare) == len(deps.groups):
            raise CriterionError(
                f"criterion {criterion} has nothing to take: no group has what form {self.form!r} reads",
                hint="use another form, such as consumers",
            )
        if bare:
            names = ", ".join(group.name for group in bare)
            _log.warning(
                "%s: gates stand in for form %s in groups without it: %s", criterion, self.form, names
            )
        names = sorted({m.param for members in self.members.values() for m in members})
        self._leaves = {name: own[name].detach().requires_grad_() for name in names}
        graph, self._gates = (
            with_gates(captured, replace(deps, groups=tuple(bare))) if bare else (captured.graph, {})
        )
        self.model: nn.Module = _Substituted(graph, self._leaves)

    @abstractmethod
    def chosen(self, captured: Captured, group: ChannelGroup) -> list[Member]:
        """The members whose parameters count."""

    def products(self, loss: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """By parameter ``w * dL/dw``, and by group without parameters the derivative at its gate."""
        inputs = [*self._leaves.values(), *self._gates.values()]
        if not loss.requires_grad:
            found = tuple(torch.zeros_like(tensor) for tensor in inputs)
        else:
            found = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        grads = dict(zip([*self._leaves, *self._gates], found, strict=True))
        weighted = {name: grads[name].double() * w.detach().double() for name, w in self._leaves.items()}
        return weighted, {name: grads[name].double() for name in self._gates}

    def scores(self, loss: Tensor) -> dict[str, Tensor]:
        """Per group what :meth:`summed` makes of its products, ``[size]``."""
        weighted, gated = self.products(loss)
        found = {name: self.of_gate(value) for name, value in gated.items()}
        for name, members in self.members.items():
            if members:
                found[name] = self.summed(weighted, members, self.sizes[name])
        return found

    def of_gate(self, value: Tensor) -> Tensor:
        """The score of a gate's derivative."""
        return value**2

    @abstractmethod
    def summed(self, weighted: dict[str, Tensor], members: Sequence[Member], size: int) -> Tensor:
        """The score of one group."""


class WeightProducts(ParameterProducts):
    """Every weight of the filters that make a unit, squared one by one."""

    form: ClassVar[str] = "weight"

    def chosen(self, captured: Captured, group: ChannelGroup) -> list[Member]:
        return list({(m.param, m.dim): m for m in group.members if m.role == "producer"}.values())

    def summed(self, weighted: dict[str, Tensor], members: Sequence[Member], size: int) -> Tensor:
        parts = [sum_by_unit(weighted[m.param] ** 2, m.dim, m.runs, size) for m in members]
        return torch.stack(parts).sum(0)


class NormProducts(ParameterProducts):
    """Scale and shift of each BatchNorm together, squared; summed over the BatchNorms."""

    form: ClassVar[str] = "bn"

    def chosen(self, captured: Captured, group: ChannelGroup) -> list[Member]:
        norms: dict[str, tuple[str, ...]] = {}
        for node in captured.graph.graph.nodes:
            if node.op == "call_function" and str(node.target) == "aten.batch_norm.default":
                norms[node.name] = tuple(str(a.target) for a in node.args[1:3] if a is not None)
        return list(
            {
                (m.param, m.dim): m
                for m in group.members
                if m.role == "channelwise" and m.param in norms.get(m.node, ())
            }.values()
        )

    def summed(self, weighted: dict[str, Tensor], members: Sequence[Member], size: int) -> Tensor:
        by_norm: dict[str, list[Tensor]] = {}
        for m in members:
            by_norm.setdefault(m.node, []).append(sum_by_unit(weighted[m.param], m.dim, m.runs, size))
        return torch.stack([torch.stack(parts).sum(0) ** 2 for parts in by_norm.values()]).sum(0)


class MassProducts(ParameterProducts):
    """Absolute products of every weight that makes or reads a unit, biases included."""

    form: ClassVar[str] = "mass"

    def chosen(self, captured: Captured, group: ChannelGroup) -> list[Member]:
        layers = {m.node for m in group.members if m.role == "producer"}
        return list(
            {
                (m.param, m.dim): m
                for m in group.members
                if m.role in ("producer", "consumer") or (m.role == "channelwise" and m.node in layers)
            }.values()
        )

    def of_gate(self, value: Tensor) -> Tensor:
        return value.abs()

    def summed(self, weighted: dict[str, Tensor], members: Sequence[Member], size: int) -> Tensor:
        parts = [sum_by_unit(weighted[m.param].abs(), m.dim, m.runs, size) for m in members]
        return torch.stack(parts).sum(0)


class _Substituted(nn.Module):
    """A model that runs with other tensors in the place of some parameters."""

    def __init__(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self._call = lambda args, kwargs: torch.func.functional_call(model, values, args, kwargs)

    def forward(self, *args: object, **kwargs: object) -> object:
        return self._call(args, kwargs)
