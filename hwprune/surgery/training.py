"""Whether a cut class also trains: some layers run in training mode only."""

from __future__ import annotations

import torch
from torch import nn

from hwprune.capture.captured import Captured
from hwprune.capture.parametrized import plain_copy
from hwprune.surgery.apply import graph_tensors


def untrainable(captured: Captured, model: nn.Module) -> str | None:
    """Why the cut class fails in training mode although the original runs, None if it does not.

    The graph is that of evaluation mode: layers that only run in training (auxiliary heads) are not
    in it, so they are not cut, and may read tensors that were.

    Parameters
    ----------
    captured
        The original.
    model
        Its class, cut; it is not changed.
    """
    known = graph_tensors(captured.graph)
    plain = plain_copy(captured.model)  # has the names of the graph
    unseen = [name for name, _ in plain.named_parameters() if name not in known]
    if not unseen or _failure(plain, captured) is not None:
        return None
    failure = _failure(model, captured)
    if failure is None:
        return None
    return (
        f"in training mode it also runs {unseen[0].rpartition('.')[0]!r}, which was not captured: {failure}"
    )


def _failure(model: nn.Module, captured: Captured) -> str | None:
    """The message of a forward pass in training mode, on two inputs."""
    twin = plain_copy(model).train()
    inputs = [torch.cat([x, x]) if x.dim() else x for x in captured.example_inputs]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            twin(*inputs)
    except Exception as error:  # whatever the model's own code raises
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None
