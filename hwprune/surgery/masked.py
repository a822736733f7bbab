"""The masked original: what a pruned model must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

from hwprune.capture.captured import Captured
from hwprune.capture.trainable import TrainableGraph
from hwprune.dependency.groups import OUTPUT, Dependencies
from hwprune.surgery.apply import graph_tensors, other_attributes
from hwprune.surgery.kept_statistics import REFERENCES
from hwprune.surgery.selection import check_keep, positions, removed_units


def masked_original(
    captured: Captured, deps: Dependencies, keep: Mapping[str, Sequence[int]]
) -> TrainableGraph:
    """The original at full size, deaf to the units that go.

    In every layer that reads a group (``role == "consumer"``), the weight slices of the removed
    units are zero. Zeroing what the layers *produce* would be something else: biases, BatchNorm
    and activations with f(0) != 0 make a zeroed channel speak again. Where activations are summed
    with each other (attention scores), one of them is zero at removed units. Where a mean and a
    variance run across channels (LayerNorm), removed channels do not count. Where channels of the
    outputs may go, those that stay are returned.

    Returns
    -------
    TrainableGraph
        In eval mode, with weights of its own where they were zeroed.
    """
    check_keep(deps, keep)
    tensors = graph_tensors(captured.graph)
    silenced: dict[str, torch.Tensor] = {}
    masks: dict[str, torch.Tensor] = {}
    graph, copies = _copied(captured)
    readings: dict[tuple[str, str, int, str], list[int]] = {}
    for name, kept in keep.items():
        group = deps.group(name)
        removed = removed_units(group, kept)
        for member in group.members if removed else ():
            if member.role == "consumer":
                weight = silenced.setdefault(member.param, tensors[member.param].detach().clone())
                index = torch.tensor(positions(member.runs, removed), device=weight.device)
                weight.index_fill_(member.dim, index, 0)
        for r in group.readings if removed else ():
            found = readings.setdefault((r.node, r.operand, r.dim, r.kind), [])
            found.extend(positions(r.runs, removed))
    _mask_readings(graph, copies, readings, masks)
    root: dict[str, object] = dict(other_attributes(captured.graph))
    for name, value in tensors.items():
        copy = silenced.get(name, value.detach())
        root[name] = nn.Parameter(copy, requires_grad=False) if isinstance(value, nn.Parameter) else copy
    masked = TrainableGraph(root | masks, graph, class_name=type(captured.graph).__name__)
    masked.eval()
    return masked


def _copied(captured: Captured) -> tuple[fx.Graph, dict[str, fx.Node]]:
    source = captured.graph.graph
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in source.nodes:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.set_codegen(source._codegen)  # pyright: ignore[reportPrivateUsage] - keeps input and output trees
    return graph, {node.name: copy for node, copy in copies.items()}


def _mask_readings(
    graph: fx.Graph,
    copies: Mapping[str, fx.Node],
    readings: Mapping[tuple[str, str, int, str], Sequence[int]],
    masks: dict[str, torch.Tensor],
) -> None:
    """Put zeros into operands, and norms over kept channels in the place of norms."""
    counted: dict[fx.Node, list[tuple[int, fx.Node]]] = {}
    silenced: dict[tuple[fx.Node, fx.Node], fx.Node] = {}  # by reader and operand, over dimensions
    for (name, operand, dim, kind), gone in readings.items():
        node, source = copies[name], copies[operand]
        value = source.meta["val"]
        flags = torch.ones(int(value.shape[dim]), device=value.device)
        flags[list(gone)] = 0
        masks[f"kept_{len(masks)}"] = flags
        with graph.inserting_before(node):
            mask = graph.get_attr(f"kept_{len(masks) - 1}")
            if kind == "statistics":
                counted.setdefault(node, []).append((dim, mask))
            else:
                before = silenced.get((node, source), source)
                reading = _leave_out if kind == OUTPUT else _silence
                after = graph.call_function(reading, (before, dim, mask))
                node.replace_input_with(before, after)
                silenced[node, source] = after
    for node, kept in counted.items():
        with graph.inserting_before(node):
            args = (kept, *node.args)
            norm = graph.call_function(REFERENCES[str(node.target)], args, dict(node.kwargs))
        node.replace_all_uses_with(norm)
        graph.erase_node(node)


def _leave_out(x: torch.Tensor, dim: int, kept: torch.Tensor) -> torch.Tensor:
    """Without the removed positions of a dimension."""
    return x.index_select(dim, kept.nonzero().flatten())


def _silence(x: torch.Tensor, dim: int, kept: torch.Tensor) -> torch.Tensor:
    """Zeros at removed positions of a dimension, whatever stood there."""
    return torch.where(kept.view(-1, *([1] * (x.dim() - dim - 1))) > 0, x, 0)
