"""Normalise an exported graph: functional operators only, no-ops gone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from hwprune.capture.batch import RESHAPES
from hwprune.capture.fold import fold_constants
from hwprune.capture.inplace import make_functional
from hwprune.capture.weights import fold_weights

# Values pass through these unchanged; autograd too.
_NO_OPS = frozenset({"aten.alias.default", "aten.lift_fresh_copy.default", "aten.lift.default"})
_DETACHES = frozenset({"aten.detach_.default", "aten.detach.default"})
_CHECKS = frozenset({"aten._assert_tensor_metadata.default"})


def normalize(module: fx.GraphModule, aliases: Mapping[str, str]) -> None:
    """Rewrite the graph of ``module`` in place.

    Tensors that share storage in the model get one ``get_attr`` node (under the first of their
    names), constants that are built in place and weights that are computed are stored, in-place
    operators become functional, operators without effect go, sizes in reshapes are written out, and
    dead code is removed.

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
        elif name in RESHAPES:
            _spell_out(node)
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


def _spell_out(node: fx.Node) -> None:
    """``view(x, [2, -1])`` becomes ``view(x, [2, 128])``."""
    if isinstance(node.args[0], fx.Node):
        node.update_arg(1, [int(size) for size in node.meta["val"].shape])
