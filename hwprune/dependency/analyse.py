"""The analysis: one walk over the graph, then groups, extents and the ledger."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from torch import fx

from hwprune.capture.captured import Captured
from hwprune.dependency.build import (
    Leaf,
    build_extents,
    build_members,
    build_pieces,
    build_readings,
    runs_of,
)
from hwprune.dependency.groups import OUTPUT, ChannelGroup, Dependencies, Refusal
from hwprune.dependency.layout import Axis, resolve
from hwprune.dependency.rules import find_rule
from hwprune.dependency.rules_attention import attention
from hwprune.dependency.rules_constants import constant
from hwprune.dependency.rules_contraction import matmul
from hwprune.dependency.rules_elementwise import elementwise
from hwprune.dependency.rules_layers import convolution
from hwprune.dependency.rules_norm import layer_norm
from hwprune.dependency.rules_repeat import concatenate
from hwprune.dependency.rules_reshape import reshape
from hwprune.dependency.rules_split import split
from hwprune.dependency.scope import Scope
from hwprune.dependency.taps import build_taps
from hwprune.dependency.tracker import Barrier, Tracker, fresh, label, shape
from hwprune.errors import UsageError

_log = logging.getLogger(__name__)

# Importing one rule of each file fills the table with all of them.
_REGISTERED = (
    attention,
    concatenate,
    constant,
    convolution,
    elementwise,
    layer_norm,
    matmul,
    reshape,
    split,
)


def analyse(
    captured: Captured,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    inside_heads: Sequence[str] = (),
    prune_outputs: bool = False,
) -> Dependencies:
    """Find the groups of channels that can only be removed together.

    Every operator's rule ties units of its inputs and outputs; an operator without a rule keeps
    all channels that touch it. Channels of the model's outputs and inputs are kept. Cost grows
    near-linearly with the graph.

    Parameters
    ----------
    captured
        The graph to analyse; it is only read.
    include, exclude
        Patterns (``fnmatch``, or a module path that stands for everything below it) over the
        names of layers. With ``include``, only groups with a matching producer can be pruned; a
        group with any producer that ``exclude`` matches cannot.
    inside_heads
        Patterns over the paths of attention modules. In these, all heads stay and the units are
        positions within a head, the same in every head: the dimension of queries and keys is one
        group, that of values another (one group for all where one projection makes all). Everywhere
        else a head is a unit. A layer has one or the other: the number of heads times their width
        would be a product, and sizes are sums of widths.
    prune_outputs
        Channels of the model's outputs may go, too: it then returns fewer of them. For models
        whose outputs are features that something else is made to read.

    Returns
    -------
    Dependencies
        Groups in the order of their first producers, extents of every tensor, and one ledger line
        per layer and reason for channels that stay. Groups may be empty: nothing can be pruned.

    Raises
    ------
    UsageError
        A pattern matches no layer.
    DependencyError
        A third-party rule gave an impossible answer.
    """
    tracker = _walk(captured.graph.graph, inside_heads, prune_outputs)
    leaves, ledger = _leaves(tracker, Scope(include, exclude))
    names = {leaf.axis: leaf.name for leaf in leaves}
    members = build_members(tracker, names)
    readings = build_readings(tracker, names)
    taps = build_taps(captured.graph.graph, tracker, {leaf.axis: leaf.nodes for leaf in leaves})
    groups = tuple(
        ChannelGroup(
            name=leaf.name,
            size=leaf.axis.size,
            channels_per_unit=leaf.channels // leaf.axis.size,
            members=tuple(members[leaf.name]),
            taps=tuple(taps[leaf.axis]),
            readings=tuple(readings[leaf.name]),
        )
        for leaf in leaves
    )
    extents = build_extents(captured.graph.graph, tracker, names)
    _log.info("%d groups, %d ledger lines", len(groups), len(ledger))
    pieces = build_pieces(tracker, names)
    return Dependencies(
        groups, extents, ledger, pieces, inside_heads=tuple(inside_heads), prune_outputs=prune_outputs
    )


def _walk(graph: fx.Graph, inside_heads: Sequence[str], prune_outputs: bool) -> Tracker:
    tracker = Tracker(inside_heads=tuple(inside_heads))
    for node in graph.nodes:
        sizes = shape(node)
        if node.op == "placeholder" and sizes is not None:
            dims = [None if dim == 0 else fresh(size) for dim, size in enumerate(sizes)]
            for layout in dims:
                tracker.keep(layout, "tied to an input of the model")
            tracker.store(node, dims)
        elif node.op == "output" and prune_outputs:
            for source in node.all_input_nodes:
                for dim in range(len(tracker.dims.get(source, ()))):
                    tracker.read(node, source, dim, OUTPUT)
        elif node.op == "output":
            tracker.block(node, "output of the model")
        elif node.op == "call_function":
            rule = find_rule(node)
            if rule is None:
                tracker.block(node, f"no rule for {label(node)}")
                continue
            try:
                tracker.store(node, rule(tracker, node))
            except Barrier as barrier:
                tracker.block(node, f"{label(node)}: {barrier}")
    for pattern in tracker.inside_heads:
        if pattern not in tracker.inside_found:
            raise UsageError(
                f"inside_heads pattern {pattern!r} matches no layer that splits a width into heads",
                hint="name attention modules, or '*' for all of them",
            )
    return tracker


def _leaves(tracker: Tracker, scope: Scope) -> tuple[list[Leaf], tuple[Refusal, ...]]:
    """The prunable sets of units, and a ledger line for each layer and reason of the others."""
    reasons: dict[Axis, str] = {}
    for layout, reason in tracker.frozen:
        for axis, _ in resolve(layout):
            reasons.setdefault(axis, reason)
    leaves: dict[Axis, Leaf] = {}
    channels: dict[tuple[str, Axis], int] = {}
    for name, node, layout in tracker.producers:
        for axis, run in runs_of(layout).items():
            leaf = leaves.setdefault(axis, Leaf(axis=axis, channels=sum(r.count * r.inner for r in run)))
            leaf.layers.append(name)
            leaf.nodes.append(node)
            channels[name, axis] = sum(r.count * r.inner for r in run)
    _name(leaves.values())  # before scopes are applied: names do not depend on them
    refused: dict[tuple[str, str], int] = {}
    kept: list[Leaf] = []
    scope.check(name for name, _, _ in tracker.producers)
    for axis, leaf in leaves.items():
        reason = reasons.get(axis) or scope.refuses(leaf.layers)
        if axis.size == 1:
            reason = reason or "has a single unit, which must stay"
        if reason is None:
            kept.append(leaf)
            continue
        for name in dict.fromkeys(leaf.layers):
            refused[name, reason] = refused.get((name, reason), 0) + channels[name, axis]
    return kept, tuple(Refusal(name, count, reason) for (name, reason), count in refused.items())


def _name(leaves: Iterable[Leaf]) -> None:
    """Name of the first producer; numbered when one layer's channels fall into several groups."""
    taken: dict[str, int] = {}
    for leaf in leaves:
        first = leaf.layers[0]
        taken[first] = taken.get(first, 0) + 1
        leaf.name = first if taken[first] == 1 else f"{first}#{taken[first]}"
