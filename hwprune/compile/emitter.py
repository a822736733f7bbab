"""What every emission function works with: values, and the stages of the kernel being built.

Stage names tell the schedule rules what a stage is: ``pad`` (a zero-padded copy of the anchor's
input), ``acc`` (the reduction of the anchor), ``e0``, ``e1``, ... (everything that is computed
point by point, the result among them) and ``unpack`` (a plain copy of the result).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hwprune.compile.layout import InputLayout, input_layouts, packed_shape
from hwprune.compile.shapes import Shape, infer_shapes
from hwprune.compile.tiles import Tile
from hwprune.compile.tvm_api import Tensor, te, tirx
from hwprune.compile.winograd import WinogradPlan
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelOp, KernelSpec
from hwprune.target import Target


@dataclass(frozen=True)
class Value:
    """A tensor with its logical shape; four-dimensional ones are packed unless ``plain``."""

    tensor: Tensor
    shape: Shape
    plain: bool


@dataclass(frozen=True)
class Emitted:
    """TE tensors of a kernel and what its schedule must know."""

    parameters: tuple[Tensor, ...]
    result: Tensor
    final: str
    family: str
    kept: frozenset[str]
    tile: Tile | None
    weight: str
    winograd: WinogradPlan | None = None
    #: Whether the point-by-point stages take many instructions an element.
    costly: bool = False
    #: Whether threads share out rows of a convolution's map.
    by_rows: bool = False


class Emitter:
    """Builds the stages of one kernel. ``family`` is set by the anchor's function."""

    def __init__(self, spec: KernelSpec, target: Target, choice: Choice | None = None) -> None:
        self.spec = spec
        self.target = target
        self.choice = choice
        self.lanes = target.simd_lanes
        self.shapes = infer_shapes(spec)
        self.layouts: tuple[InputLayout, ...] = input_layouts(spec, target, choice)
        self.family = "elementwise"
        self.tile: Tile | None = None
        self.winograd: WinogradPlan | None = None
        self.weight_name = ""
        self.by_rows = False
        self.kept: set[str] = set()
        self.count = 0
        self.inputs = [
            te.placeholder(layout.shape, "float32", name=f"in{i}") for i, layout in enumerate(self.layouts)
        ]
        self.values = [
            Value(t, item.shape, layout.form != "packed")
            for t, item, layout in zip(self.inputs, spec.inputs, self.layouts, strict=True)
        ]

    def weight(self, op: KernelOp, slot: int) -> Tensor | None:
        """Physical weight tensor of an argument slot, or None for an absent one."""
        return self.inputs[op.args[slot]] if len(op.args) > slot and op.args[slot] >= 0 else None

    def stage(self, shape: Shape, body: Callable[..., Any]) -> Value:
        """A point-by-point stage with a four- or two-dimensional logical result."""
        tensor = te.compute(packed_shape(shape, self.lanes), body, name=f"e{self.count}")
        self.count += 1
        return Value(tensor, shape, plain=False)

    def packed(self, value: Value) -> Value:
        """The value in packed form (a stage that repacks, if it is a plain input)."""
        if not value.plain or len(value.shape) != 4:
            return value
        channels, lanes, source = value.shape[1], self.lanes, value.tensor

        def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
            inside = c * lanes + i < channels
            return tirx.if_then_else(inside, source[n, c * lanes + i, h, w], tirx.const(0.0, "float32"))

        return self.stage(value.shape, body)

    def kept_value(self, value: Value) -> Value:
        """Mark a stage as read by a reduction directly, so that it is stored and not inlined."""
        if value.tensor.op.name.startswith("e"):
            self.kept.add(value.tensor.op.name)
        return value

    def broadcast(self, value: Value, shape: Shape, index: Sequence[Any]) -> Any:
        """Element of ``value`` that belongs to a physical index of a result of ``shape``."""
        if len(value.shape) == 4:
            n, c, h, w, i = index
            ones = [d == 1 for d in value.shape]
            place = (
                0 if ones[0] else n,
                0 if ones[1] and shape[1] > 1 else c,
                0 if ones[2] else h,
                0 if ones[3] else w,
                0 if ones[1] and shape[1] > 1 else i,
            )
            return value.tensor[place]
        if len(shape) == 4:
            raise UnsupportedOperatorError(f"cannot broadcast a tensor of shape {value.shape} to {shape}")
        tail = index[len(index) - len(value.shape) :]
        return value.tensor[tuple(0 if d == 1 else i for d, i in zip(value.shape, tail, strict=True))]

    def channel(self, index: Sequence[Any]) -> Any:
        """Channel number of a physical index of a four- or two-dimensional tensor."""
        return index[1] * self.lanes + index[4] if len(index) == 5 else index[-1]
