"""The analysis of a graph, for the same graph without some of its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import fx
from torch.utils import _pytree as pytree

from hwprune.dependency.groups import ChannelGroup, Dependencies, Refusal


def restrict(deps: Dependencies, whole: fx.Graph, rest: fx.Graph) -> Dependencies:
    """What is left of an analysis where nodes were taken out and none came in.

    Groups keep their names and units, also where the rest of the graph ties their channels less
    than the whole did: what could be cut together in the whole can be cut together in a part.

    Parameters
    ----------
    deps
        Analysis of the whole graph.
    whole, rest
        That graph, and what is left of it under the same names of nodes and parameters; nodes
        may read others in the place of those that are gone.

    Returns
    -------
    Dependencies
        Without the groups and the lines of the ledger whose layers are all gone.
    """
    nodes = {node.name for node in rest.nodes}
    parameters, heirs = _parameters(rest), _heirs(whole, rest)
    gone = _parameters(whole) - parameters
    groups = tuple(g for group in deps.groups if (g := _rest(group, nodes, parameters, heirs)) is not None)
    return replace(
        deps,
        groups=groups,
        extents={name: extents for name, extents in deps.extents.items() if name in nodes},
        pieces={name: pieces for name, pieces in deps.pieces.items() if name in nodes},
        ledger=tuple(
            line for line in deps.ledger if not (_names(line, gone) and not _names(line, parameters))
        ),
    )


def _rest(
    group: ChannelGroup, nodes: set[str], parameters: set[str], heirs: Mapping[str, str]
) -> ChannelGroup | None:
    """None where nothing makes or carries its channels any more."""
    members = tuple(m for m in group.members if m.param in parameters)
    if not any(m.role != "consumer" for m in members) and any(m.role != "consumer" for m in group.members):
        return None
    taps = (replace(tap, node=heirs.get(tap.node, tap.node)) for tap in group.taps)
    readings = (
        replace(r, operand=heirs.get(r.operand, r.operand)) for r in group.readings if r.node in nodes
    )
    return replace(
        group,
        members=members,
        taps=tuple(dict.fromkeys(tap for tap in taps if tap.node in nodes)),
        readings=tuple(dict.fromkeys(r for r in readings if r.operand in nodes)),
    )


def _heirs(whole: fx.Graph, rest: fx.Graph) -> dict[str, str]:
    """What is read now in the place of a node that is gone."""
    before = {node.name: node for node in whole.nodes}
    return {
        old.name: new.name
        for node in rest.nodes
        if node.name in before
        for old, new in zip(_read_by(before[node.name]), _read_by(node), strict=True)
        if old.name != new.name
    }


def _read_by(node: fx.Node) -> list[fx.Node]:
    """All operands in their order, with repetition."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, fx.Node)]


def _parameters(graph: fx.Graph) -> set[str]:
    return {str(node.target) for node in graph.nodes if node.op == "get_attr"}


def _names(line: Refusal, parameters: set[str]) -> bool:
    return any(name == line.name or name.startswith(f"{line.name}.") for name in parameters)
