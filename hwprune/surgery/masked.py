"""The masked original: what a pruned model must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from hwprune.capture.captured import Captured
from hwprune.capture.trainable import TrainableGraph
from hwprune.dependency.groups import Dependencies
from hwprune.surgery.apply import graph_tensors, other_attributes
from hwprune.surgery.selection import check_keep, positions, removed_units


def masked_original(
    captured: Captured, deps: Dependencies, keep: Mapping[str, Sequence[int]]
) -> TrainableGraph:
    """The original at full size, deaf to the units that go.

    In every layer that reads a group (``role == "consumer"``), the weight slices of the removed
    units are zero. Zeroing what the layers *produce* would be something else: biases, BatchNorm
    and activations with f(0) != 0 make a zeroed channel speak again.

    Returns
    -------
    TrainableGraph
        In eval mode, with weights of its own where they were zeroed.
    """
    check_keep(deps, keep)
    tensors = graph_tensors(captured.graph)
    silenced: dict[str, torch.Tensor] = {}
    for name, kept in keep.items():
        group = deps.group(name)
        removed = removed_units(group, kept)
        for member in group.members if removed else ():
            if member.role == "consumer":
                weight = silenced.setdefault(member.param, tensors[member.param].detach().clone())
                index = torch.tensor(positions(member.runs, removed), device=weight.device)
                weight.index_fill_(member.dim, index, 0)
    root: dict[str, object] = dict(other_attributes(captured.graph))
    for name, value in tensors.items():
        copy = silenced.get(name, value.detach())
        root[name] = nn.Parameter(copy, requires_grad=False) if isinstance(value, nn.Parameter) else copy
    masked = TrainableGraph(root, _copied(captured), class_name=type(captured.graph).__name__)
    masked.eval()
    return masked


def _copied(captured: Captured) -> torch.fx.Graph:
    source = captured.graph.graph
    graph = torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in source.nodes:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.set_codegen(source._codegen)  # pyright: ignore[reportPrivateUsage] - keeps input and output trees
    return graph
