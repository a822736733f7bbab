"""Constants as operands of arithmetic: per channel, per element, or plain numbers."""

from __future__ import annotations

from typing import Any

from torch import fx

from hwprune.latency import operators as ops
from hwprune.latency.folding import ONE, Affine, Read, Weight, number_affine, operand_affine
from hwprune.latency.views import TO_FIRST, Views


def constant_affine(node: fx.Node, tensor: fx.Node, views: Views) -> Affine | None:
    """Arithmetic of ``tensor`` with a number or one constant per channel, else None."""
    if node.target not in ops.BINARY:
        return None
    first, second = node.args[:2]
    flipped = second is tensor
    other: Any = first if flipped else second
    if node.target is ops.aten.rsub.Scalar:
        flipped = True
    kind, alpha = ops.BINARY[node.target], float(ops.arguments(node).get("alpha", 1))
    if other is tensor or views.shape(tensor) != views.shape(node):
        return None
    if isinstance(other, (int, float)):
        value = float(other) if flipped else float(other) * alpha
        return number_affine(kind, flipped, value) if alpha == 1 or not flipped else None
    if not isinstance(other, fx.Node) or other.op != "get_attr" or alpha != 1:
        return None
    out, own = views.shape(node), _lined_up(node, other, views)
    if len(out) not in (2, 4) or own is None or any(s != 1 for i, s in enumerate(own) if i != 1):
        return None
    size = out[1]
    if own[1] == 1 and size > 1:
        return operand_affine(kind, flipped, node, 1, lambda read: read(other).reshape(()).expand(size))
    axis = _channel_axis(node, other, views)
    if axis is None:
        return operand_affine(kind, flipped, node, 1, lambda read: read(other).reshape(-1))
    return operand_affine(kind, flipped, other, axis, lambda read: read(other).reshape(-1))


def constant_map(node: fx.Node, parameter: fx.Node, views: Views) -> Weight:
    """A parameter with one value per element of a feature map (or of a row)."""
    own = ops.shape(parameter)
    lined, out = _lined_up(node, parameter, views), views.shape(node)
    same = lined is not None and all(a in (1, b) for a, b in zip(lined, out, strict=True))
    per_position = same and lined is not None and lined[1:] == out[1:]
    if lined is None or not per_position or lined[0] != out[0]:
        raise ops.unsupported(node, f"cannot broadcast a parameter of shape {own} inside a kernel")
    lead = len(ops.shape(node)) - len(own)
    axes = [a - lead if a >= lead else ONE for a in range(len(out))]
    order = TO_FIRST if node in views.last else range(len(out))

    def compute(read: Read) -> Any:
        value = read(parameter)
        return value.reshape(*[1] * lead, *value.shape).permute(*order)

    return Weight(parameter, tuple(axes[a] for a in order), compute)


def _lined_up(node: fx.Node, parameter: fx.Node, views: Views) -> tuple[int, ...] | None:
    """Shape of the parameter with leading ones, in NCHW order."""
    rank, own = len(ops.shape(node)), ops.shape(parameter)
    if len(own) > rank:
        return None
    return tuple(views.order(node, (1,) * (rank - len(own)) + own))


def _channel_axis(node: fx.Node, parameter: fx.Node, views: Views) -> int | None:
    """The parameter's own dimension that lies on the channels, if it has one."""
    rank, own = len(ops.shape(node)), len(ops.shape(parameter))
    for axis in range(own):
        if views.axis(node, axis + rank - own) == 1:
            return axis
    return None
