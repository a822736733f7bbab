"""Constants of normalisation layers, attention and transposed convolutions that depend on widths."""

from __future__ import annotations

import torch
from torch import fx

from hwprune.surgery.constants import new_sizes, rewrite


@rewrite("aten.layer_norm.default", "aten.rms_norm.default")
def normalized_shape(node: fx.Node) -> None:
    """The normalised shape is that of the last dimensions."""
    sizes = node.args[1]
    assert isinstance(sizes, list | tuple)
    node.update_arg(1, list(new_sizes(node)[-len(sizes) :]))


@rewrite("aten.group_norm.default")
def group_count(node: fx.Node) -> None:
    """As many groups as are left, each of the size that it had; one group stays one."""
    groups = node.args[1]
    assert isinstance(groups, int)
    if groups > 1:
        node.update_arg(1, groups * new_sizes(node)[1] // _old_sizes(node)[1])


@rewrite("aten.scaled_dot_product_attention.default")
def attention_scale(node: fx.Node) -> None:
    """The operator would derive another scale from a smaller query: state the original's."""
    old, new = _old_sizes(node.args[0])[-1], new_sizes(node.args[0])[-1]
    if old != new and node.kwargs.get("scale") is None:
        node.update_kwarg("scale", old**-0.5)


@rewrite("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def transposed_group_count(node: fx.Node) -> None:
    """With one input channel per group there are as many groups as channels are left."""
    weight = node.args[1]
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    left = new_sizes(weight)[0]
    if groups == 1 or groups != _old_sizes(weight)[0]:
        return
    if len(node.args) > 6:
        node.update_arg(6, left)
    else:
        node.update_kwarg("groups", left)


def _old_sizes(node: object) -> tuple[int, ...]:
    """Shape of a node before the cut."""
    assert isinstance(node, fx.Node)
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return tuple(int(n) for n in value.shape)
