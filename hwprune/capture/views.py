"""Writing through a view: the tensor that a view is a part of, with that part exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

Call = tuple[Any, tuple[Any, ...]]


@dataclass(frozen=True)
class Window:
    """A node that takes the view (its other arguments say which), and what it is taken of."""

    view: fx.Node
    source: fx.Node


def _slice(view: fx.Node, source: fx.Node, part: fx.Node) -> Call:
    return aten.slice_scatter.default, (source, part, *view.args[1:])


def _select(view: fx.Node, source: fx.Node, part: fx.Node) -> Call:
    return aten.select_scatter.default, (source, part, *view.args[1:])


def _transpose(view: fx.Node, source: fx.Node, part: fx.Node) -> Call:
    return aten.transpose.int, (part, *view.args[1:])


def _permute(view: fx.Node, source: fx.Node, part: fx.Node) -> Call:
    order = [int(str(dim)) % len(source.meta["val"].shape) for dim in _listed(view.args[1])]
    return aten.permute.default, (part, [order.index(dim) for dim in range(len(order))])


def _unsqueeze(view: fx.Node, source: fx.Node, part: fx.Node) -> Call:
    return aten.squeeze.dim, (part, view.args[1])


def _view(view: fx.Node, source: fx.Node, part: fx.Node) -> Call:
    return aten.reshape.default, (part, list(source.meta["val"].shape))


_BACK: dict[object, Callable[[fx.Node, fx.Node, fx.Node], Call]] = {
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.unsqueeze.default: _unsqueeze,
    aten.view.default: _view,
}


def can_show_through(view: fx.Node) -> bool:
    """Whether a write into this view can be written out as a new tensor."""
    return view.target in _BACK and not view.kwargs


def show_through(graph: fx.Graph, window: Window, part: fx.Node) -> fx.Node:
    """A new node behind ``part``: the window's source as it is once the view shows ``part``."""
    target, arguments = _BACK[window.view.target](window.view, window.source, part)
    with graph.inserting_after(part):
        whole = graph.call_function(target, arguments)
    whole.meta = dict(window.source.meta)
    return whole


def _listed(value: object) -> list[object]:
    assert isinstance(value, list | tuple)
    return list(value)
