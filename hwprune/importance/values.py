"""Activations of a captured graph, shown as they are computed, one batch at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from hwprune.dependency.groups import Run
from hwprune.errors import CriterionError
from hwprune.importance.batches import Batch
from hwprune.importance.units import unit_of_position

_log = logging.getLogger(__name__)

Look = Callable[[fx.Node, Sequence[Any], Any], None]


class _Watched(fx.Interpreter):
    """Runs a graph and shows every call's arguments and value."""

    def __init__(self, graph: fx.GraphModule, look: Look) -> None:
        super().__init__(graph)
        self._look = look

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function":
            self._look(n, self.fetch_args_kwargs_from_env(n)[0], value)
        return value


def bind(graph: fx.GraphModule, batch: Batch) -> list[Any]:
    """A batch as the values of the graph's placeholders, in their order.

    Raises
    ------
    CriterionError
        The graph takes other arguments.
    """
    codegen = graph.graph._codegen  # pyright: ignore[reportPrivateUsage] - the only place that knows names
    info = getattr(codegen, "pytree_info", None)
    names = [] if info is None else list(info.orig_args)[len(batch.inputs) :]
    named = [batch.named[name] for name in names if name in batch.named]
    values = list(graph.graph.process_inputs(*batch.inputs, *named))
    wanted = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    if len(values) != len(wanted) or len(named) != len(batch.named):
        raise CriterionError(
            f"the model takes {', '.join(wanted)}, and a batch has {len(batch.inputs)} inputs"
            + (f" and {', '.join(batch.named)}" if batch.named else ""),
            hint="the data must have the form of the example inputs",
        )
    return values


def watch_values(graph: fx.GraphModule, data: Iterable[Batch], look: Look, *, criterion: str) -> int:
    """Run a graph on data and show every operator with its arguments and its value.

    Values are dropped as soon as nothing needs them. No gradients are taken; put the graph into
    evaluation mode first.

    Parameters
    ----------
    graph
        A captured graph.
    data
        Batches.
    look
        Called with ``(node, arguments, value)``; keep no reference to whole activations.
    criterion
        Name for the error message.

    Returns
    -------
    int
        Examples seen.

    Raises
    ------
    CriterionError
        The graph does not run on a batch.
    """
    seen = 0
    watched = _Watched(graph, look)
    for batch in data:
        values = bind(graph, batch)
        try:
            with torch.no_grad():
                watched.run(*values, enable_io_processing=False)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if isinstance(error, CriterionError):
                raise
            shapes = [tuple(v.shape) for v in values if isinstance(v, torch.Tensor)]
            reason = str(error).strip().split("\n", 1)[0]
            raise CriterionError(
                f"criterion {criterion} cannot run the model on a batch with inputs of shape {shapes}: "
                f"{reason}",
                hint="the data must fit the example inputs",
            ) from error
        seen += max(1, batch.size)
    return seen


def checked_value(value: Any, node: fx.Node | str, criterion: str) -> torch.Tensor:
    """A watched value, which must be a finite tensor.

    Raises
    ------
    CriterionError
        It is something else.
    """
    if not isinstance(value, torch.Tensor):
        raise CriterionError(
            f"criterion {criterion} looks at {node}, whose value is no tensor but {type(value).__name__}",
            hint="use another criterion",
        )
    if not bool(torch.isfinite(value).all()):
        raise CriterionError(
            f"criterion {criterion} found NaN or infinite values in {node}",
            hint="look for NaN or infinite values in the data and the weights",
        )
    return value


def rows_of_units(value: torch.Tensor, dim: int, runs: Iterable[Run], size: int) -> torch.Tensor:
    """What belongs to each unit, as one row per example.

    Parameters
    ----------
    value
        An activation whose dimension 0 is that of examples.
    dim
        The dimension that ``runs`` describe; not 0 unless there is no other.
    size
        Number of units.

    Returns
    -------
    torch.Tensor
        ``[examples, size, L]``; a unit with fewer positions than another ends in zeros.
    """
    if dim == 0:
        value, dim = value[None], 1
    units = unit_of_position(runs, value.shape[dim])
    places = [(units == unit).nonzero().flatten() for unit in range(size)]
    most = max(len(p) for p in places)
    moved = value.movedim(dim, 1).flatten(2) if value.ndim > 2 else value.unsqueeze(2)
    if all(len(p) == most for p in places):
        index = torch.cat(places).to(value.device)
        return moved.index_select(1, index).unflatten(1, (size, most)).flatten(2)
    out = moved.new_zeros(moved.shape[0], size, most, moved.shape[2])
    for unit, place in enumerate(places):
        out[:, unit, : len(place)] = moved[:, place.to(value.device)]
    return out.flatten(2)


def warn_if_all_alike(scores: torch.Tensor, group: str, criterion: str, why: str) -> torch.Tensor:
    """Say so where no unit of a group scores anything: they then count the same."""
    if scores.numel() and not bool((scores != 0).any()):
        _log.warning("%s: %s in group %s, whose units all score alike", criterion, why, group)
    return scores
