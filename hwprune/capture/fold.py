"""Constants that a model builds step by step, with writes in place, become single buffers."""

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

# These read only dtype and device of their first argument.
_FACTORIES = frozenset(
    f"aten.{name}.default"
    for name in ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")
)


def fold_constants(module: fx.GraphModule, names: Container[str]) -> None:
    """Compute once what depends on no input and no tensor of the model (attention masks).

    Only where something is written in place; other constants stay as they are. Nothing is changed
    if a constant is written to after the rest of the graph has read it.

    Parameters
    ----------
    module
        Exported graph; constants become buffers ``folded_0``, ``folded_1``, ...
    names
        Names of the model's parameters and buffers: they are not constants.
    """
    constants = constants_of(module.graph, names)
    if not any(writes(node) for node in constants):
        return
    values = evaluate(module, constants)
    if values is None:
        return
    for number, (node, value) in enumerate(values.items()):
        name = f"folded_{number}"
        module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            stored = module.graph.get_attr(name)
        stored.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(stored, delete_user_cb=lambda user: user not in constants)
    for node in reversed(list(module.graph.nodes)):
        if node in constants and not node.users:
            module.graph.erase_node(node)


def constants_of(graph: fx.Graph, names: Container[str]) -> set[fx.Node]:
    """Nodes that depend on no input and on none of the named tensors, and are not random."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            if str(node.target) not in names and isinstance(node.meta.get("val"), torch.Tensor):
                found.add(node)
        elif node.op == "call_function" and _is_pure(node):
            needed = node.all_input_nodes
            if str(node.target) in _FACTORIES:
                needed = []
            if all(source in found for source in needed):
                found.add(node)
    return found


def _is_pure(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    return isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded not in node.target.tags


def writes(node: fx.Node) -> bool:
    """Whether a node writes in place."""
    return isinstance(node.target, OpOverload) and str(node.target).split(".")[1].endswith("_")


def evaluate(module: fx.GraphModule, constants: set[fx.Node]) -> dict[fx.Node, torch.Tensor] | None:
    """Values that the rest of the graph reads, None if one of them changes after it was read."""
    env: dict[fx.Node, Any] = {}
    read: dict[fx.Node, torch.Tensor] = {}
    memory: set[int] = set()
    for node in module.graph.nodes:
        if node not in constants:
            for source in node.all_input_nodes:
                if source not in constants or source in read or str(node.target) in _FACTORIES:
                    continue
                value = env[source]
                if not isinstance(value, torch.Tensor):
                    return None
                read[source] = value.clone()
                memory.add(_address(value))
            continue
        if node.op == "get_attr":
            env[node] = operator.attrgetter(str(node.target))(module).detach().clone()
            continue
        args = fx.map_arg(node.args, lambda n: _value(n, env))
        kwargs = fx.map_arg(node.kwargs, lambda n: _value(n, env))
        target = args[0] if isinstance(args, tuple) and args else None
        if isinstance(target, torch.Tensor) and writes(node) and _address(target) in memory:
            return None
        with torch.no_grad():
            env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return read


def _address(value: torch.Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _value(node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    if node in env:
        return env[node]
    like = node.meta["val"]  # the argument of a factory: only its dtype, device and shape count
    return torch.empty(tuple(like.shape), dtype=like.dtype, device=like.device)
