"""Residual blocks: branches whose removal leaves an identity shortcut, found from the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.dependency.tracker import layer_name, shape

_SUM = "aten.add.Tensor"
_WEIGHTED = ("aten.conv", "aten.linear", "aten.lstm")
#: How far back the two operands of a sum are followed to where they part.
_REACH = 400


@dataclass(frozen=True)
class Block:
    """A branch that is added to a shortcut.

    Attributes
    ----------
    name
        Module path of the sum; numbered where a module sums several branches, named by the
        branch's first layer where the sum is in the model's own forward.
    sum
        Name of the node that adds branch and shortcut.
    shortcut, branch
        Names of its operands. Without the block, ``shortcut`` takes the place of the sum.
    nodes
        Names of all nodes that nothing else needs, in the order of the graph.
    parameters
        Names of parameters and buffers that go with it.
    groups
        Groups of channels that lie in it and go with it.
    module
        Path of the module around the sum, ``""`` if it is the model itself.
    reason
        Why the block cannot be removed, None if it can.
    """

    name: str
    sum: str
    shortcut: str
    branch: str
    nodes: tuple[str, ...]
    parameters: tuple[str, ...]
    groups: tuple[str, ...]
    module: str
    reason: str | None = None


def find_blocks(captured: Captured, deps: Dependencies) -> tuple[Block, ...]:
    """Find all residual blocks of a model.

    A block is a sum of two tensors of which one, the shortcut, is computed on the way to the other.
    Leaving the branch out is the same as letting it be zero. Where the shortcut is itself computed
    (a projection, a pooling), the block is listed with the reason why it stays.

    Parameters
    ----------
    captured
        The model; it is only read.
    deps
        Its groups.

    Returns
    -------
    tuple of Block
        In the order of their sums; the blocks of a nested one come before it.
    """
    order = {node: number for number, node in enumerate(captured.graph.graph.nodes)}
    homes = {g.name: {m.param for m in g.members if m.role != "consumer"} for g in deps.groups}
    blocks: list[Block] = []
    taken: dict[str, int] = {}
    for node in order:
        operands = node.args[:2]
        if str(node.target) != _SUM or node.op != "call_function":
            continue
        if not all(isinstance(o, fx.Node) and shape(o) is not None for o in operands):
            continue
        a, b = (o for o in operands if isinstance(o, fx.Node))
        if a is b or "get_attr" in (a.op, b.op):
            continue
        found = _identity(node, a, b, order) or _computed(node, a, b, order)
        if found is None:
            continue
        shortcut, branch, reason = found
        dead = sorted(_only_for(branch, node), key=order.__getitem__)
        parameters = tuple(str(n.target) for n in dead if n.op == "get_attr")
        if not parameters:
            continue
        name = _name(node, dead)
        taken[name] = taken.get(name, 0) + 1
        blocks.append(
            Block(
                name=name if taken[name] == 1 else f"{name}#{taken[name]}",
                sum=node.name,
                shortcut=shortcut.name,
                branch=branch.name,
                nodes=tuple(n.name for n in dead),
                parameters=parameters,
                groups=tuple(g for g, params in homes.items() if params and params <= set(parameters)),
                module=module_path(node),
                reason=reason,
            )
        )
    return tuple(blocks)


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that a node was traced in, ``""`` for the model itself."""
    stack: Mapping[str, tuple[str, object]] = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(list(stack.values()))), "").split("@")[0]


Found = tuple[fx.Node, fx.Node, str | None]


def _identity(node: fx.Node, a: fx.Node, b: fx.Node, order: Mapping[fx.Node, int]) -> Found | None:
    """The operand from which the other one is computed is the shortcut."""
    shortcut, branch = (a, b) if order[a] < order[b] else (b, a)
    if not _reaches(branch, shortcut, order):
        return None
    reason = None
    if shape(shortcut) != shape(node) or shortcut.meta["val"].dtype != node.meta["val"].dtype:
        reason = f"its shortcut {shape(shortcut)} is not of the shape and dtype of the sum {shape(node)}"
    elif shortcut is node.args[1] and node.kwargs.get("alpha", 1) != 1:
        reason = f"its shortcut is scaled by {node.kwargs['alpha']}"
    return shortcut, branch, reason


def _reaches(node: fx.Node, ancestor: fx.Node, order: Mapping[fx.Node, int]) -> bool:
    return any(found is ancestor for found in _backwards((node,), order[ancestor], order))


def _backwards(starts: Sequence[fx.Node], limit: int, order: Mapping[fx.Node, int]) -> Iterator[fx.Node]:
    """Nodes that the starts are computed from, back to position ``limit``."""
    waiting, seen = list(starts), set(starts)
    while waiting:
        node = waiting.pop()
        yield node
        for source in node.all_input_nodes:
            if source not in seen and order[source] >= limit:
                seen.add(source)
                waiting.append(source)


def _only_for(branch: fx.Node, sum_: fx.Node) -> set[fx.Node]:
    """Nodes that nothing needs once the sum does not read the branch."""
    dead: set[fx.Node] = set()
    waiting = [branch]
    while waiting:
        node = waiting.pop()
        if node in dead or node.op == "placeholder":
            continue
        if all(user in dead or (user is sum_ and node is branch) for user in node.users):
            dead.add(node)
            waiting.extend(node.all_input_nodes)
    return dead


def _computed(node: fx.Node, a: fx.Node, b: fx.Node, order: Mapping[fx.Node, int]) -> Found | None:
    """Both operands come from one tensor, on ways of their own: the shorter one is a shortcut."""
    sides = _part(a, b, order)
    if sides is None:
        return None
    for side in sides:
        if any(user is not node and user not in side for n in side for user in n.users):
            return None
    weights = [sum(str(n.target).startswith(_WEIGHTED) for n in side) for side in sides]
    if weights[0] == weights[1] or min(weights) > 1:
        return None
    short = sides[weights.index(min(weights))]
    shortcut, branch = (a, b) if a in short else (b, a)
    layers = [
        layer_name(n, n.args[1]) for n in short if str(n.target).startswith(_WEIGHTED) and len(n.args) > 1
    ]
    if layers:
        return shortcut, branch, f"its shortcut is a projection ({layers[0]}), not an identity"
    does = ", ".join(
        dict.fromkeys(
            str(n.target).removeprefix("aten.").split(".")[0] for n in sorted(short, key=order.__getitem__)
        )
    )
    return shortcut, branch, f"its shortcut is not an identity: {does}"


def _part(a: fx.Node, b: fx.Node, order: Mapping[fx.Node, int]) -> tuple[set[fx.Node], set[fx.Node]] | None:
    """Nodes on both ways back to where they part, None where they mix or do not meet."""
    sides: tuple[set[fx.Node], set[fx.Node]] = (set(), set())
    frontier: dict[fx.Node, set[int]] = {a: {0}, b: {1}}
    for _ in range(_REACH):
        latest = max(frontier, key=order.__getitem__)
        tags = frontier.pop(latest)
        if not frontier:
            return sides if len(tags) == 2 else None
        if len(tags) == 2 or latest.op == "placeholder":
            return None
        (tag,) = tags
        sides[tag].add(latest)
        for source in latest.all_input_nodes:
            if source.op != "get_attr":
                frontier.setdefault(source, set()).add(tag)
    return None


def _name(node: fx.Node, dead: Sequence[fx.Node]) -> str:
    path = module_path(node)
    if path:
        return path
    layer = next((n for n in dead if str(n.target).startswith(_WEIGHTED) and len(n.args) > 1), None)
    return node.name if layer is None else layer_name(layer, layer.args[1])
