"""Blocks are taken out: of the user's module where that leaves its code right, else of the graph."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import fx, nn

from hwprune.capture.captured import Captured
from hwprune.capture.parametrized import deep_copy
from hwprune.capture.trainable import TrainableGraph
from hwprune.dependency.blocks import Block, module_path
from hwprune.errors import PlanError, SurgeryError, VerificationError
from hwprune.surgery.apply import graph_tensors, other_attributes
from hwprune.surgery.compare import max_difference
from hwprune.surgery.lively import lively

# Where these follow a ReLU, values are still not negative.
_KEEP_SIGN = ("aten.max_pool", "aten.avg_pool", "aten.adaptive_", "aten.dropout", "aten.contiguous")


def choose_blocks(blocks: Sequence[Block], names: Sequence[str]) -> tuple[Block, ...]:
    """Blocks by name.

    Raises
    ------
    PlanError
        There is no block of a name, or it cannot be removed.
    """
    known = {block.name: block for block in blocks}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
            hint = f"the nearest blocks are {', '.join(near)}" if near else "it has no residual blocks"
            raise PlanError(f"this model has no block {name!r}", hint=hint)
        if known[name].reason is not None:
            raise PlanError(
                f"block {name!r} cannot be removed: {known[name].reason}", hint="remove other blocks"
            )
    return tuple(known[name] for name in dict.fromkeys(names))


def without_blocks(captured: Captured, blocks: Sequence[Block]) -> TrainableGraph:
    """The graph with shortcuts in the place of sums, and without what nothing needs any more.

    A ReLU behind a sum goes too where the shortcut has been through one.

    Returns
    -------
    TrainableGraph
        In eval mode, with copies of the parameters; it can be analysed again.
    """
    return _rewritten(captured, blocks, _bypass)


def bypassed(captured: Captured, blocks: Sequence[Block]) -> fx.GraphModule:
    """The graph of :func:`without_blocks`, to be looked at only: it shares the model's parameters.

    Nodes that stay keep their names.
    """
    graph = _edited(captured, blocks, _bypass)
    return fx.GraphModule(captured.graph, graph)


def bypass_in(graph: fx.Graph, nodes: Mapping[str, fx.Node], blocks: Sequence[Block]) -> None:
    """Take blocks out of a graph itself, which is changed.

    Parameters
    ----------
    graph
        A copy of the captured graph, perhaps cut already.
    nodes
        Its nodes by the names of those that they are copies of, in the order of the captured graph.
    blocks
        Blocks of the captured graph.
    """
    _edit_in(graph, nodes, blocks, _bypass)


def _bypass(graph: fx.Graph, sum_: fx.Node, shortcut: fx.Node, _branch: fx.Node) -> None:
    behind = [user for user in sum_.users if str(user.target) == "aten.relu.default"]
    sum_.replace_all_uses_with(shortcut)
    for relu in behind if _is_nonnegative(shortcut) else ():
        relu.replace_all_uses_with(shortcut)


def zeroed_original(captured: Captured, blocks: Sequence[Block]) -> TrainableGraph:
    """The original in which the branches of blocks are zero: what a model without them must equal."""

    def silence(graph: fx.Graph, sum_: fx.Node, _shortcut: fx.Node, branch: fx.Node) -> None:
        with graph.inserting_before(sum_):
            zeros = graph.call_function(torch.ops.aten.zeros_like.default, (branch,))
        sum_.replace_input_with(branch, zeros)

    return _rewritten(captured, blocks, silence)


def remove_blocks(
    captured: Captured, blocks: Sequence[Block], *, tolerance: float = 1e-4
) -> tuple[nn.Module, str | None, float]:
    """Take blocks out of a model and verify it against the original with their branches zeroed.

    Parameters
    ----------
    captured
        The model; it is not changed.
    blocks
        Blocks without a ``reason``, from :func:`hwprune.dependency.blocks.find_blocks`.

    Returns
    -------
    model, reason, error
        A copy of the user's module in which the blocks' modules are ``nn.Identity``, and None;
        or, where a block is not all that its module does, the graph form and why. Last, the largest
        relative difference from the reference. The training mode is that of the user's module.

    Raises
    ------
    SurgeryError
        A block cannot be removed.
    VerificationError
        Not even the graph form equals the reference.
    """
    for block in blocks:
        if block.reason is not None:
            raise SurgeryError(f"block {block.name!r} cannot be removed: {block.reason}")
    stand_in = lively(captured)
    subjects = [captured] if stand_in is None else [captured, stand_in]
    paths = [block.module for block in blocks]
    reason = _not_a_module(captured, blocks)
    if reason is None:
        try:
            error = max(_difference(s, blocks, with_identities(s.model, paths)) for s in subjects)
            if error <= tolerance:
                return with_identities(captured.model, paths), None, error
            reason = f"with its modules replaced, it differs by {error:.2e} of the output's scale"
        except VerificationError as failure:
            reason = failure.message
    error = max(_difference(s, blocks, without_blocks(s, blocks)) for s in subjects)
    if not error <= tolerance:
        raise VerificationError(
            "the model without its blocks is not the original with their branches zeroed: "
            f"it differs by {error:.2e} of the output's scale",
            hint="remove the blocks one by one and report the network",
        )
    graph = without_blocks(captured, blocks)
    graph.train(captured.model.training)
    name = type(captured.model).__name__
    return graph, f"the class {name} is not kept, its graph form is: {reason}", error


def _difference(captured: Captured, blocks: Sequence[Block], model: nn.Module) -> float:
    return max_difference(zeroed_original(captured, blocks), model, captured.example_inputs)


Edit = Callable[[fx.Graph, fx.Node, fx.Node, fx.Node], None]


def _edited(captured: Captured, blocks: Sequence[Block], edit: Edit) -> fx.Graph:
    source, graph = captured.graph, fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in source.graph.nodes:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.set_codegen(source.graph._codegen)  # pyright: ignore[reportPrivateUsage] - keeps input and output trees
    _edit_in(graph, {node.name: copy for node, copy in copies.items()}, blocks, edit)
    return graph


def _edit_in(graph: fx.Graph, nodes: Mapping[str, fx.Node], blocks: Sequence[Block], edit: Edit) -> None:
    order = {name: number for number, name in enumerate(nodes)}
    # Operands are looked up anew: removing an earlier block may have replaced a shortcut.
    for block in sorted(blocks, key=lambda b: order[b.sum]):
        sum_, branch = nodes[block.sum], nodes[block.branch]
        first, second = (o for o in sum_.args[:2] if isinstance(o, fx.Node))
        edit(graph, sum_, second if first is branch else first, branch)
    # A dropout counts as one that has an effect; that of a branch that is gone has none.
    gone = {nodes[name] for block in blocks for name in block.nodes}
    graph.eliminate_dead_code(lambda node: node.is_impure() and node not in gone)


def _rewritten(captured: Captured, blocks: Sequence[Block], edit: Edit) -> TrainableGraph:
    source, graph = captured.graph, _edited(captured, blocks, edit)
    root = other_attributes(source)
    for name, value in graph_tensors(source).items():
        own = value.detach().clone()
        trained = isinstance(value, nn.Parameter)
        root[name] = nn.Parameter(own, requires_grad=value.requires_grad) if trained else own
    needed = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
    root = {name: value for name, value in root.items() if name in needed}
    result = TrainableGraph(root, graph, class_name=type(source).__name__)
    result.eval()
    return result


def _not_a_module(captured: Captured, blocks: Sequence[Block]) -> str | None:
    """Why the blocks are not modules that can become identities, None if they are."""
    nodes = {node.name: node for node in captured.graph.graph.nodes}
    gone = {name for block in blocks for name in (*block.nodes, block.sum)}
    for block in blocks:
        if not block.module:
            return f"block {block.name!r} is in the forward of the model itself"
        sum_ = nodes[block.sum]
        for node in nodes.values():
            if node.name in gone or node.op != "call_function" or not _is_inside(node, block.module):
                continue
            last = str(node.target) == "aten.relu.default" and node.args[0] is sum_
            if not (last and _is_nonnegative(nodes[block.shortcut])):
                return f"the module {block.module!r} does more than block {block.name!r} ({node.name})"
    return None


def _is_inside(node: fx.Node, path: str) -> bool:
    own = module_path(node)
    return own == path or own.startswith(f"{path}.")


def _is_nonnegative(node: fx.Node) -> bool:
    while str(node.target).startswith(_KEEP_SIGN) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return str(node.target) in ("aten.relu.default", "aten.relu6.default", "aten.sigmoid.default")


def with_identities(model: nn.Module, paths: Iterable[str]) -> nn.Module:
    """A copy of a model in which the modules at some paths are ``nn.Identity``."""
    twin = deep_copy(model)
    # A module around others of them goes with them.
    for path in sorted(set(paths)):
        try:
            old = twin.get_submodule(path)
        except AttributeError:
            continue
        if not isinstance(old, nn.Identity):
            twin.set_submodule(path, nn.Identity().train(old.training))
    for parameter in twin.parameters():
        parameter.grad = None
    return twin
