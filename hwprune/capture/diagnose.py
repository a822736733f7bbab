"""Why a model did not run or export: the layer, the shapes and torch's own words."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from types import FrameType
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


def users_line(error: BaseException) -> str:
    """Where in the model's own Python an error arose: ``(net.py, line 12: if x.sum() > 0:)``.

    The innermost frame that is neither torch's nor ours, empty if there is none.
    """
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(ours) and "forward" in _callers(frame):
            found = f" ({Path(file).name}, line {line}: {linecache.getline(file, line).strip()})"
    return found


def _callers(frame: FrameType) -> set[str]:
    names: set[str] = set()
    current: FrameType | None = frame
    while current is not None:
        names.add(current.f_code.co_name)
        current = current.f_back
    return names


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
