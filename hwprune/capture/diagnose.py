"""Why a model did not run or export: the layer, the shapes and torch's own words."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hwprune.errors import CaptureError

_NOISE = ("Traceback", "File ", "The above exception", "During handling", "from user code", "Suggested fix")


def first_lines(error: BaseException, count: int = 3) -> str:
    """The first meaningful lines of an error message, joined to one."""
    lines = [line.strip() for line in str(error).splitlines()]
    meaningful = [line for line in lines if line and not line.startswith(_NOISE)]
    return " ".join(meaningful[:count]) or type(error).__name__


def explain_run_failure(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Run the model; raise CaptureError naming layer and shape when it fails, else return.

    Parameters
    ----------
    model
        A private copy in eval mode; hooks are added to it.
    inputs
        The example inputs.
    """
    running: list[tuple[str, nn.Module, tuple[Any, ...]]] = []

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            running.append((name, module, args))

        return hook

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        running.pop()

    for name, module in model.named_modules():
        module.register_forward_pre_hook(enter(name))
        module.register_forward_hook(leave)
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        name, module, args = running[-1] if running else ("", model, inputs)
        shapes = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, torch.Tensor))
        given = ", ".join(str(tuple(value.shape)) for value in inputs)
        where = f"layer {name!r} ({type(module).__name__})" if name else type(model).__name__
        raise CaptureError(
            f"the model does not run on the example inputs of shape {given}: {where} "
            f"was given {shapes or 'no tensor'}: {first_lines(error, 2)}",
            hint="check the shape (batch, channels, height, width) and dtype of the example inputs",
        ) from error
