"""Weights that a model computes from its parameters in ``forward`` become parameters.

Standardised weights take a mean over input channels, reparametrised blocks add kernels: such
expressions change with a cut in ways of their own. What a layer reads is the same tensor every
time, so it is computed once and stored. The graph then learns that tensor itself.
"""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from hwprune.capture.fold import constants_of, evaluate, writes

_LAYERS = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}
)
# A cut passes through these: what they show is the parameter itself.
_MOVES = frozenset(
    {"t", "transpose", "permute", "view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten"}
    | {"slice", "select", "split", "split_with_sizes", "chunk", "unbind", "narrow", "contiguous", "clone"}
    | {"alias", "detach", "expand", "cat"}
)


def fold_weights(module: fx.GraphModule) -> None:
    """Store computed weights and biases of convolutions and linear layers.

    Left alone are expressions that only move positions (transposed, sliced or concatenated
    parameters), and everything that other operators read.

    Parameters
    ----------
    module
        Exported graph; it gets parameters ``folded_weight_0``, ``folded_weight_1``, ...
    """
    constants = constants_of(module.graph, ())
    wanted = [
        argument
        for node in module.graph.nodes
        if node not in constants and _operator(node) in _LAYERS
        for argument in (*node.args[1:3], node.kwargs.get("weight"), node.kwargs.get("bias"))
        if isinstance(argument, fx.Node) and argument in constants and not _only_moves(argument, constants)
    ]
    if not wanted:
        return
    values = evaluate(module, constants)
    if values is None:
        return
    for number, node in enumerate(dict.fromkeys(wanted)):
        name, value = f"folded_weight_{number}", values[node]
        module.register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=_learns(node)))
        with module.graph.inserting_before(node):
            stored = module.graph.get_attr(name)
        stored.meta.update(node.meta)
        layers = [user for user in node.users if user not in constants]
        node.replace_all_uses_with(stored, delete_user_cb=lambda user, layers=layers: user in layers)
    for node in reversed(list(module.graph.nodes)):
        if node in constants and not node.users:
            module.graph.erase_node(node)


def _operator(node: fx.Node) -> str:
    if node.target is operator.getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0] if node.op == "call_function" else ""


def _only_moves(node: fx.Node, constants: set[fx.Node]) -> bool:
    """Whether a constant is made of parameters by moving positions, and nothing is written to it."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        top = waiting.pop()
        if top in seen:
            continue
        seen.add(top)
        if top.op == "call_function" and _operator(top) not in _MOVES | {"getitem"}:
            return False
        if any(writes(user) for user in top.users if user in constants):
            return False
        if top.op == "call_function" and any(_written(user, constants) for user in top.users):
            return False
        waiting.extend(top.all_input_nodes)
    return True


def _written(node: fx.Node, constants: set[fx.Node]) -> bool:
    """Whether a view of a tensor is written to."""
    return node in constants and any(writes(user) for user in node.users)


def _learns(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())
