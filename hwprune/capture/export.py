"""``capture``: torch.export as the front door."""

from __future__ import annotations

import logging

import torch
from torch import fx, nn

from hwprune.capture.batch import open_batch, unusual_batch
from hwprune.capture.captured import Captured
from hwprune.capture.diagnose import explain_run_failure, first_lines, users_line
from hwprune.capture.normalize import normalize
from hwprune.capture.parametrized import plain_copy
from hwprune.capture.tensors import named_tensors
from hwprune.capture.trainable import TrainableGraph, remember_eval_mode
from hwprune.errors import CaptureError

_log = logging.getLogger(__name__)


def capture(model: nn.Module, example_inputs: torch.Tensor | tuple[torch.Tensor, ...]) -> Captured:
    """Export a module to one graph of functional ATen operators.

    The module is deep-copied, put into eval mode and exported with ``torch.export`` (not strict);
    the module itself, its weights, buffers and training flags stay as they are. Parametrised
    weights (weight norm, spectral norm) are plain weights in the graph. The graph starts
    in eval mode; its ``train()`` switches BatchNorm and dropout. It runs at other batch sizes
    unless the model's own code fixes the batch.

    Parameters
    ----------
    model
        A trained module whose forward takes tensors positionally.
    example_inputs
        One tensor or a tuple of tensors with the shapes of deployment, batch first.

    Returns
    -------
    Captured
        Graph, the untouched module, and the inputs as a tuple.

    Raises
    ------
    CaptureError
        The module does not run on the inputs (the message names the layer and the shape), or
        torch.export refuses it (the message carries torch's reason), or it writes in place into
        a view, a parameter or a buffer.
    """
    inputs = _as_tuple(example_inputs)
    try:
        twin = plain_copy(model)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied: {first_lines(error)}",
            hint="make every tensor attribute a parameter, a buffer or a detached tensor",
        ) from error
    twin.eval()
    for parameter in twin.parameters():
        parameter.grad = None
    unlifted = _export_any_batch(twin, inputs)
    if unlifted is None:
        try:
            unlifted = _export(twin, inputs)
        except CaptureError:
            raise
        except Exception as error:
            explain_run_failure(twin, inputs)  # raises if the model itself does not run
            raise CaptureError(
                f"torch.export cannot take {type(model).__name__}: {first_lines(error)}{users_line(error)}",
                hint="prune a submodule that exports (for a detector, its backbone), or remove the "
                "data-dependent Python from forward",
            ) from error
    _revive_cumulative_averages(twin, unlifted.graph)
    remember_eval_mode(unlifted.graph)
    graph = TrainableGraph(unlifted, unlifted.graph, class_name=type(model).__name__)
    graph.eval()
    _log.info("captured %s: %d nodes", type(model).__name__, len(graph.graph.nodes))
    return Captured(graph=graph, model=model, example_inputs=inputs)


def _export_any_batch(twin: nn.Module, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule | None:
    """A graph that runs at all batch sizes, None if that needs the user's own batch size."""
    others = unusual_batch(inputs)
    if others is None:
        return None
    try:
        graph = _export(twin, others)
    except Exception:  # the example's own batch size will show what is wrong, if anything is
        return None
    if open_batch(graph, inputs) is not None:
        return None
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    return graph


def _export(twin: nn.Module, inputs: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    exported = torch.export.export(twin, inputs, strict=False)
    unlifted = exported.module(check_guards=False)
    if not isinstance(unlifted, fx.GraphModule):  # pragma: no cover - torch's own contract
        raise CaptureError(f"torch.export gave a {type(unlifted).__name__}, not a graph module")
    normalize(unlifted, aliases=_aliases(twin))
    return unlifted


def _as_tuple(example_inputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    for position, value in enumerate(inputs):
        if not isinstance(value, torch.Tensor):
            raise CaptureError(
                f"example input {position} is a {type(value).__name__}, not a tensor",
                hint="pass tensors positionally; wrap the model if it needs anything else",
            )
    if not inputs:
        raise CaptureError("no example inputs were given", hint="pass a tensor or a tuple of tensors")
    return tuple(value.detach() for value in inputs)


def _revive_cumulative_averages(twin: nn.Module, graph: fx.Graph) -> None:
    """``momentum=None`` is exported as 0 in eval mode: training would never move the statistics."""
    cumulative = {
        path
        for path, module in twin.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.momentum is None
    }
    for node in graph.nodes:
        if node.op == "call_function" and str(node.target) == "aten.batch_norm.default":
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            if stack and str(stack[-1][0]).split("@")[0] in cumulative:
                node.update_arg(6, 0.1)


def _aliases(model: nn.Module) -> dict[str, str]:
    """Map every name of a shared tensor to its first name."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, tensor in named_tensors(model).items():
        names[name] = first.setdefault(id(tensor), name)
    return names
