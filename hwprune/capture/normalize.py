"""Normalise an exported graph: functional operators only, no-ops gone, batch size left open."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx
from torch._ops import OpOverload

from hwprune.capture.fold import fold_constants
from hwprune.capture.inplace import make_functional
from hwprune.capture.weights import fold_weights

# Values pass through these unchanged; autograd too.
_NO_OPS = frozenset({"aten.alias.default", "aten.lift_fresh_copy.default", "aten.lift.default"})
_DETACHES = frozenset({"aten.detach_.default", "aten.detach.default"})
_CHECKS = frozenset({"aten._assert_tensor_metadata.default"})
_RESHAPES = frozenset({"aten.view.default", "aten.reshape.default", "aten._unsafe_view.default"})


def normalize(module: fx.GraphModule, aliases: Mapping[str, str]) -> None:
    """Rewrite the graph of ``module`` in place.

    Tensors that share storage in the model get one ``get_attr`` node (under the first of their
    names), constants that are built in place and weights that are computed are stored, in-place
    operators become functional, operators without effect go, constant batch sizes in reshapes
    become -1, and dead code is removed.

    Parameters
    ----------
    module
        Graph module from ``ExportedProgram.module()``.
    aliases
        Name of every parameter and buffer of the model to the first name of the same tensor.

    Raises
    ------
    CaptureError
        In-place writes that have no functional form (see :mod:`hwprune.capture.inplace`).
    """
    graph = module.graph
    _merge_parameters(graph, aliases)
    fold_constants(module, aliases)
    fold_weights(module)
    make_functional(graph)
    for node in list(graph.nodes):
        name = str(node.target) if node.op == "call_function" else ""
        if name in _CHECKS:
            graph.erase_node(node)
        elif name in _NO_OPS or (name in _DETACHES and not _needs_grad(node.args[0])):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif name in _RESHAPES:
            _open_batch(node)
        elif name == "aten.expand.default":
            _open_expand(node)
    graph.eliminate_dead_code()
    graph.lint()


def _merge_parameters(graph: fx.Graph, aliases: Mapping[str, str]) -> None:
    first: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "get_attr":
            continue
        name = aliases.get(str(node.target), str(node.target))
        if name in first:
            node.replace_all_uses_with(first[name])
            graph.erase_node(node)
        else:
            node.target = name
            first[name] = node


def _needs_grad(value: object) -> bool:
    tensor = value.meta.get("val") if isinstance(value, fx.Node) else None
    return isinstance(tensor, torch.Tensor) and tensor.requires_grad


def _open_batch(node: fx.Node) -> None:
    """``view(x, [2, -1])`` becomes ``view(x, [-1, 128])`` where dimension 0 passes through."""
    source = node.args[0]
    if not isinstance(source, fx.Node):
        return
    before, after = source.meta["val"].shape, node.meta["val"].shape
    sizes = [int(size) for size in after]
    keeps_batch = len(before) > 0 and len(sizes) > 0 and int(before[0]) == sizes[0]
    if keeps_batch and 0 not in sizes and source.op != "get_attr":
        sizes[0] = -1
    node.update_arg(1, sizes)


def _open_expand(node: fx.Node) -> None:
    """In ``expand``, write -1 for a batch that is not expanded."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op == "get_attr":
        return
    before, sizes = source.meta["val"].shape, [int(size) for size in node.meta["val"].shape]
    if len(before) == len(sizes) and int(before[0]) == sizes[0]:
        sizes[0] = -1
        node.update_arg(1, sizes)


def is_aten(node: fx.Node) -> bool:
    """Whether a node calls an ATen operator."""
    return node.op == "call_function" and isinstance(node.target, OpOverload)
