"""TE stages that reduce over channels: LayerNorm and softmax.

Both reduce twice. Each time ``r0`` (``r2``) makes one partial result per lane, a vector loop over
channel blocks, and ``r1`` (``r3``) joins the lanes. The lanes behind the last channel hold
garbage, so they are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwprune.compile.emitter import Emitter, Value
from hwprune.compile.math_ops import exp, maximum
from hwprune.compile.shapes import Shape, number
from hwprune.compile.tiles import ceil_div
from hwprune.compile.tvm_api import Tensor, te, tirx
from hwprune.latency.kernel import KernelOp

LOWEST = -3.4028234663852886e38


class _Channels:
    """Reads a packed map or a row block by block; ``place`` is (n, h, w) or (n,)."""

    def __init__(self, e: Emitter, op: KernelOp, shape: Shape) -> None:
        self.e = e
        self.x = e.kept_value(e.packed(e.values[op.args[0]])).tensor
        self.count = shape[1]
        self.blocks = ceil_div(self.count, e.lanes)
        self.places = (shape[0], *shape[2:])
        self.ragged = self.count % e.lanes != 0
        e.family = "norm"

    def at(self, place: tuple[Any, ...], block: Any, lane: Any) -> Any:
        if len(place) == 3:
            n, h, w = place
            return self.x[n, block, h, w, lane]
        channel = block * self.e.lanes + lane
        return self.x[place[0], tirx.min(channel, self.count - 1) if self.ragged else channel]

    def over_blocks(
        self, name: str, body: Callable[[Any, tuple[Any, ...]], Any], largest: bool = False
    ) -> Tensor:
        """Per-lane sum (or maximum) of ``body(x, place)`` over the channel blocks."""
        block = te.reduce_axis((0, self.blocks), "cb")
        lanes = self.e.lanes

        def element(*index: Any) -> Any:
            *place, lane = index
            value = body(self.at(tuple(place), block, lane), tuple(place))
            if self.ragged:
                inside = block * lanes + lane < self.count
                value = tirx.Select(inside, value, tirx.const(LOWEST if largest else 0.0, "float32"))
            return te.max(value, axis=[block]) if largest else te.sum(value, axis=[block])

        return te.compute((*self.places, lanes), element, name=name)

    def over_lanes(
        self,
        name: str,
        partial: Tensor,
        finish: Callable[[Any], Any],
        join: Callable[[Any, Any], Any] = lambda a, b: a + b,
    ) -> Tensor:
        """``finish`` of all lanes joined pairwise."""

        def element(*place: Any) -> Any:
            values = [partial[(*place, lane)] for lane in range(self.e.lanes)]
            while len(values) > 1:
                values = [join(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
            return finish(values[0])

        return te.compute(self.places, element, name=name)


def _place(index: tuple[Any, ...]) -> tuple[Any, ...]:
    return (index[0], index[2], index[3]) if len(index) == 5 else (index[0],)


def layer_norm(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x, weight, bias = _Channels(e, op, shape), e.weight(op, 1), e.weight(op, 2)
    share = tirx.const(1.0 / x.count, "float32")
    total = x.over_blocks("r0", lambda value, place: value)
    mean = x.over_lanes("r1", total, lambda value: value * share)

    def square(value: Any, place: tuple[Any, ...]) -> Any:
        return (value - mean[place]) * (value - mean[place])

    squares = x.over_blocks("r2", square)
    epsilon = tirx.const(number(op, "eps"), "float32")
    # 1 / sqrt is the only call, and it is one instruction.
    inverse = x.over_lanes(
        "r3", squares, lambda value: tirx.const(1.0, "float32") / tirx.sqrt(value * share + epsilon)
    )

    def body(*index: Any) -> Any:
        place = _place(index)
        value = (x.x[index] - mean[place]) * inverse[place]
        value = value if weight is None else value * weight[e.channel(index)]
        return value if bias is None else value + bias[e.channel(index)]

    return e.stage(shape, body)


def softmax(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    x = _Channels(e, op, shape)
    largest = x.over_blocks("r0", lambda value, place: value, largest=True)
    top = x.over_lanes("r1", largest, lambda value: value, maximum)
    powers = x.over_blocks("r2", lambda value, place: exp(value - top[place]))
    inverse = x.over_lanes("r3", powers, lambda value: tirx.const(1.0, "float32") / value)

    def body(*index: Any) -> Any:
        place = _place(index)
        return exp(x.x[index] - top[place]) * inverse[place]

    return e.stage(shape, body)
