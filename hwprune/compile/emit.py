"""From a kernel description to TE: one stage per operator, ready for the schedule rules.

Stage names tell the rules what a stage is: ``pad`` (a zero-padded or repacked copy of the
anchor's input), ``acc`` (the reduction of the anchor), ``e0``, ``e1``, ... (everything that is
computed point by point, the result among them) and ``unpack`` (a plain copy of the result).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hwprune.compile.layout import InputLayout, flattened_shape, input_layouts, packed_shape
from hwprune.compile.math_ops import UNARY
from hwprune.compile.shapes import Shape, infer_shapes
from hwprune.compile.tiles import Tile
from hwprune.compile.tvm_api import Tensor, te, tirx
from hwprune.errors import UnsupportedOperatorError
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


class Emitter:
    """Builds the stages of one kernel. ``family`` is set by the anchor's function."""

    def __init__(self, spec: KernelSpec, target: Target) -> None:
        self.spec = spec
        self.target = target
        self.lanes = target.simd_lanes
        self.shapes = infer_shapes(spec)
        self.layouts: tuple[InputLayout, ...] = input_layouts(spec, target)
        self.family = "elementwise"
        self.tile: Tile | None = None
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

    def run(self) -> Emitted:
        """Emit all ops.

        Raises
        ------
        UnsupportedOperatorError
            Naming the operator without a lowering.
        """
        from hwprune.compile.emit_anchors import ANCHOR_EMITTERS

        for number, op in enumerate(self.spec.ops):
            shape = self.shapes[len(self.spec.inputs) + number]
            if op.kind in ANCHOR_EMITTERS:
                self.values.append(ANCHOR_EMITTERS[op.kind](self, op, shape))
            elif op.kind in UNARY:
                self.values.append(self._unary(op))
            elif op.kind in ("add", "mul", "sub"):
                self.values.append(self._binary(op, shape))
            elif op.kind == "scale_shift":
                self.values.append(self._scale_shift(op))
            elif op.kind == "flatten":
                self.values.append(self._flatten(number, op, shape))
            else:
                raise UnsupportedOperatorError(f"operator '{op.kind}' has no lowering for CPUs")
        result = self.values[-1]
        if not result.tensor.op.name.startswith("e"):  # an input handed through
            tensor = result.tensor
            result = self.stage(result.shape, lambda *index: tensor[index])
        final, tensor = result.tensor.op.name, result.tensor
        if self.spec.plain_output and len(result.shape) == 4:
            lanes = self.lanes
            tensor = te.compute(
                result.shape,
                lambda n, c, h, w: result.tensor[n, c // lanes, h, w, c % lanes],
                name="unpack",
            )
        return Emitted(
            (*self.inputs, tensor), tensor, final, self.family, frozenset(self.kept), self.tile
        )

    def _unary(self, op: KernelOp) -> Value:
        x = self.packed(self.values[op.args[0]])
        function = UNARY[op.kind]
        return self.stage(x.shape, lambda *index: function(x.tensor[index], op))

    def _binary(self, op: KernelOp, shape: Shape) -> Value:
        a, b = (self.packed(self.values[i]) for i in op.args)

        def body(*index: Any) -> Any:
            x, y = self.broadcast(a, shape, index), self.broadcast(b, shape, index)
            return x + y if op.kind == "add" else x * y if op.kind == "mul" else x - y

        return self.stage(shape, body)

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

    def _scale_shift(self, op: KernelOp) -> Value:
        x = self.packed(self.values[op.args[0]])
        scale, shift = self.weight(op, 1), self.weight(op, 2)
        assert scale is not None and shift is not None

        def body(*index: Any) -> Any:
            c = self.channel(index)
            return x.tensor[index] * scale[c] + shift[c]

        return self.stage(x.shape, body)

    def _flatten(self, number: int, op: KernelOp, shape: Shape) -> Value:
        x = self.values[op.args[0]]
        position = len(self.spec.inputs) + number
        users = [o for o in self.spec.ops if position in o.args]
        flat = flattened_shape(self.spec, position, self.shapes)
        if users and flat is not None and all(o.kind == "linear" for o in users):
            return x  # the linear operator reads the packed tensor in its own order
        _, _, h, w = x.shape if len(x.shape) == 4 else (0, 0, 1, 1)
        lanes, source = self.lanes, x.tensor

        def body(n: Any, k: Any) -> Any:
            if len(x.shape) != 4:
                return source[n, k]
            c, row, col = k // (h * w), k // w % h, k % w
            if x.plain:
                return source[n, c, row, col]
            return source[n, c // lanes, row, col, c % lanes]

        return self.stage(shape, body)


def emit(spec: KernelSpec, target: Target) -> Emitted:
    """TE stages of a kernel (see the module's text for their names)."""
    return Emitter(spec, target).run()
