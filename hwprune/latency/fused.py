"""A network as fused kernels with open widths: what fusion makes, and what is read from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from hwprune.extent import Extent
from hwprune.latency import operators as ops
from hwprune.latency.channels import OpenSize, StepOp
from hwprune.latency.folding import Weight
from hwprune.latency.kernel import FamilyInput, FamilyOp, KernelFamily, KernelOp, OpenValue
from hwprune.latency.program import Program, Source, Step
from hwprune.latency.sizes import open_shape
from hwprune.latency.views import Views


@dataclass(frozen=True)
class FusedStep:
    """One kernel before shapes are fixed.

    ``inputs`` are tensor nodes or weights, in the order of the kernel's inputs; ``node`` is the
    graph node whose value the kernel produces.
    """

    name: str
    ops: tuple[KernelOp | StepOp, ...]
    inputs: tuple[fx.Node | Weight, ...]
    node: fx.Node
    plain_output: bool

    @property
    def is_plain(self) -> bool:
        """Whether the kernel reads and writes plain feature maps."""
        return self.ops[0].kind == "fallback" and len(ops.shape(self.node)) == 4


@dataclass(frozen=True)
class FusedGraph:
    """The kernels of a network in execution order."""

    graph: fx.GraphModule
    placeholders: tuple[fx.Node, ...]
    steps: tuple[FusedStep, ...]
    outputs: tuple[fx.Node, ...]
    views: Views

    def families(self, extents: Mapping[str, Sequence[Extent]] | None = None) -> tuple[KernelFamily, ...]:
        """One family per step; without ``extents`` every dimension is fixed."""
        return tuple(self._family(step, extents or {}) for step in self.steps)

    def program(self) -> Program:
        """The network with its present shapes and weights, BatchNorm folded (float32)."""
        return self._link(self.families(), {}, lambda weight, _: weight.value(self.graph))

    def shape_program(self, families: Sequence[KernelFamily], widths: Mapping[str, int]) -> Program:
        """The network at other widths, for timing: right shapes, weights that hold no memory."""
        return self._link(families, widths, lambda _, shape: np.broadcast_to(np.float32(0), shape))

    def _link(
        self,
        families: Sequence[KernelFamily],
        widths: Mapping[str, int],
        values: Callable[[Weight, tuple[int, ...]], np.ndarray],
    ) -> Program:
        made: dict[fx.Node, Source] = {p: Source("input", i) for i, p in enumerate(self.placeholders)}
        weights: list[np.ndarray] = []
        steps: list[Step] = []
        for number, (step, family) in enumerate(zip(self.steps, families, strict=True)):
            spec = family.at(widths)
            sources: list[Source] = []
            for item, wanted in zip(step.inputs, spec.inputs, strict=True):
                if isinstance(item, Weight):
                    sources.append(Source("weight", len(weights)))
                    weights.append(values(item, wanted.shape))
                else:
                    sources.append(made[item])
            steps.append(Step(step.name, spec, tuple(sources)))
            made[step.node] = Source("step", number)
        return Program(
            tuple(ops.shape(p) for p in self.placeholders),
            tuple(steps),
            tuple(made[node] for node in self.outputs),
            tuple(weights),
        )

    def _family(self, step: FusedStep, extents: Mapping[str, Sequence[Extent]]) -> KernelFamily:
        def dims(node: fx.Node) -> tuple[Extent, ...]:
            return tuple(self.views.order(node, open_shape(node, extents)))

        fallback = step.ops[0].kind == "fallback"
        inputs: list[FamilyInput] = []
        for item in step.inputs:
            if isinstance(item, Weight):
                inputs.append(FamilyInput(item.dims(dims(item.node)), "weight"))
            else:
                plain = fallback or item.op == "placeholder"
                inputs.append(FamilyInput(dims(item), "input" if plain else "data"))
        found = tuple(_open(op, dims) if isinstance(op, StepOp) else op for op in step.ops)
        return KernelFamily(step.name, tuple(inputs), found, step.plain_output)


def _open(op: StepOp, dims: Callable[[fx.Node], tuple[Extent, ...]]) -> KernelOp | FamilyOp:
    """The operator with its sizes as functions of widths; fixed ones as numbers."""

    def value(given: Any) -> OpenValue:
        if isinstance(given, OpenSize):
            return given.extent(dims)
        if isinstance(given, tuple):
            return tuple(value(v) for v in given)  # type: ignore[return-value]
        return given

    found = FamilyOp(op.kind, op.args, tuple((name, value(v)) for name, v in op.attributes))
    return found if any(e.terms for e in found.extents) else found.at({})
