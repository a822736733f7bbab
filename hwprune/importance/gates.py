"""Gates: a factor of one on every unit of every group, whose gradient says what the unit is worth."""

from __future__ import annotations

import torch
from torch import fx, nn

from hwprune.capture.captured import Captured
from hwprune.capture.copies import quiet_copy
from hwprune.dependency.groups import ChannelGroup, Dependencies, Tap
from hwprune.errors import CriterionError
from hwprune.importance.units import unit_of_position


def with_gates(captured: Captured, deps: Dependencies) -> tuple[fx.GraphModule, dict[str, nn.Parameter]]:
    """A copy of the graph in which the last tap of every group is multiplied by a gate vector.

    The copy shares the parameters of the captured graph (take gradients with
    ``torch.autograd.grad``, which leaves ``.grad`` alone) and has the modes of the captured
    graph's nodes. With gates of one its outputs are those of the captured graph.

    Parameters
    ----------
    captured
        The captured model; not changed.
    deps
        Its groups.

    Returns
    -------
    tuple
        The gated graph, and per group its gate: ones ``[size]`` that require a gradient, in the
        tap's dtype and on its device. Positions of the tap that belong to no unit keep a factor
        of one.

    Raises
    ------
    CriterionError
        A group has no tap.
    """
    source = captured.graph
    graph = quiet_copy(source.graph)
    # A copied graph keeps the order of its nodes.
    twin: dict[str, fx.Node] = {
        old.name: new for old, new in zip(source.graph.nodes, graph.nodes, strict=True)
    }
    values = {node.name: node.meta["val"] for node in source.graph.nodes if "val" in node.meta}
    device = next((p.device for p in source.parameters()), torch.device("cpu"))
    gated = fx.GraphModule(source, graph, class_name="Gated")
    gates: dict[str, nn.Parameter] = {}
    # Where the gates of several groups meet on one tensor they follow each other.
    latest = dict(twin)
    for number, group in enumerate(deps.groups):
        tap = gate_tap(group)
        value = values[tap.node]
        gate = nn.Parameter(torch.ones(group.size, dtype=value.dtype, device=device))
        gates[group.name] = gate
        gated.register_parameter(f"hwprune_gate_{number}", gate)
        index = _index(tap, value.shape[tap.dim], group.size)
        gated.register_buffer(f"hwprune_gate_index_{number}", index.to(device), persistent=False)
        shape = [1] * value.ndim
        shape[tap.dim] = value.shape[tap.dim]
        latest[tap.node] = _insert(graph, latest[tap.node], number, shape)
    graph.lint()
    gated.recompile()
    return gated, gates


def gate_tap(group: ChannelGroup) -> Tap:
    """The tap that carries a group's gate: the last one.

    Raises
    ------
    CriterionError
        The group has none.
    """
    if not group.taps:
        raise CriterionError(
            f"group {group.name} has no tensor that carries all of its channels, so it cannot be gated",
            hint=f"exclude {group.name}, or use a criterion of weights such as l2",
        )
    return group.taps[-1]


def _index(tap: Tap, length: int, size: int) -> torch.Tensor:
    """Unit of each position; ``size`` (the constant one behind the gates) where there is none."""
    units = unit_of_position(tap.runs, length)
    return torch.where(units < 0, size, units)


def _insert(graph: fx.Graph, before: fx.Node, number: int, shape: list[int]) -> fx.Node:
    """Put ``before * cat(gate, 1)[index].view(shape)`` between a node and its users."""
    users = list(before.users)
    aten = torch.ops.aten
    with graph.inserting_after(before):
        gate = graph.get_attr(f"hwprune_gate_{number}")
    with graph.inserting_after(gate):
        index = graph.get_attr(f"hwprune_gate_index_{number}")
    with graph.inserting_after(index):
        padded = graph.call_function(aten.constant_pad_nd.default, (gate, [0, 1], 1.0))
    with graph.inserting_after(padded):
        spread = graph.call_function(aten.index_select.default, (padded, 0, index))
    with graph.inserting_after(spread):
        shaped = graph.call_function(aten.view.default, (spread, shape))
    with graph.inserting_after(shaped):
        product = graph.call_function(aten.mul.Tensor, (before, shaped))
    for user in users:
        user.replace_input_with(before, product)
    return product
