"""TE stages that move channels: slices, shuffles, concatenation at any offset.

In packed layout a channel's lane changes when it moves, so these stages cannot be vectors over
lanes. They form one ``gather`` stage with unrolled lanes, whose index arithmetic the compiler does;
what follows is computed from its stored result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwprune.compile.emitter import Emitter, Value
from hwprune.compile.shapes import Shape, integers
from hwprune.compile.tvm_api import tirx
from hwprune.latency.kernel import KernelOp

#: Operators that may share one gather stage.
MOVES = frozenset(("cat", "channel_slice", "channel_shuffle", "pixel_shuffle"))


def gathered(e: Emitter, op: KernelOp, value: Value) -> Value:
    """Make the kernel a gather; its stage is stored if other operators follow."""
    position = len(e.values)
    users = [o for o in e.spec.ops if position in o.args]
    e.family = "gather"
    return value if all(o.kind in MOVES for o in users) else e.kept_value(value)


def _moved(e: Emitter, op: KernelOp, shape: Shape, source: Callable[[Any], Any]) -> Value:
    """The stage that takes output channel c from channel ``source(c)``."""
    x = e.packed(e.values[op.args[0]])
    lanes = e.lanes
    if len(shape) == 2:
        return e.stage(shape, lambda n, c: x.tensor[n, source(c)])

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        channel = c * lanes + i
        origin = source(channel)
        value = x.tensor[n, origin // lanes, h, w, origin % lanes]
        return tirx.if_then_else(channel < shape[1], value, tirx.const(0.0, "float32"))

    return gathered(e, op, e.stage(shape, body))


def channel_slice(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    (start,) = integers(op, "start")
    x = e.packed(e.values[op.args[0]])
    first = op.args[0] < len(e.spec.inputs)
    if len(shape) == 4 and start % e.lanes == 0 and first:
        # Whole blocks: the lanes behind the last channel may hold anything finite.
        return e.stage(shape, lambda n, c, h, w, i: x.tensor[n, c + start // e.lanes, h, w, i])
    return _moved(e, op, shape, lambda c: c + start)


def channel_shuffle(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    (groups,) = integers(op, "groups")
    per_group = shape[1] // groups
    return _moved(e, op, shape, lambda c: c % groups * per_group + c // groups)


def pixel_shuffle(e: Emitter, op: KernelOp, shape: Shape) -> Value:
    (f,) = integers(op, "factor")
    x = e.packed(e.values[op.args[0]])
    lanes = e.lanes

    def body(n: Any, c: Any, h: Any, w: Any, i: Any) -> Any:
        channel = c * lanes + i
        origin = channel * (f * f) + h % f * f + w % f
        value = x.tensor[n, origin // lanes, h // f, w // f, origin % lanes]
        return tirx.if_then_else(channel < shape[1], value, tirx.const(0.0, "float32"))

    return gathered(e, op, e.stage(shape, body))
