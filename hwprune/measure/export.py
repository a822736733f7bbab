"""Writes a model the way the comparison's other engines want it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Generator, Sequence
from pathlib import Path

import torch

from hwprune.errors import MeasureError, MissingExtraError
from hwprune.onnx_backend.silence import silent_exporter


def onnx_export(model: torch.nn.Module, inputs: Sequence[torch.Tensor], path: Path) -> Path:
    """Export to ``.onnx`` by torch's TorchScript exporter, which needs no onnxscript.

    Parameters
    ----------
    model
        Exported in evaluation mode; its mode is restored.
    inputs
        Example inputs; their shapes are fixed in the file.
    path
        Written here.

    Raises
    ------
    MissingExtraError
        onnx is not installed.
    MeasureError
        torch cannot express the model in ONNX.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtraError("onnx is not installed", hint="pip install 'hwprune[onnx]'")
    with _evaluating(model), silent_exporter():
        try:
            torch.onnx.export(model, tuple(inputs), str(path), dynamo=False, opset_version=17)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise MeasureError(
                f"the model cannot be exported to ONNX: {reason}",
                hint="leave ONNX Runtime out of the comparison",
            ) from error
    return path


def save_exported(model: torch.nn.Module, inputs: Sequence[torch.Tensor], path: Path) -> Path:
    """Save as an ``ExportedProgram`` (``.pt2``) for :func:`hwprune.measure.contenders.torch_contender`.

    Raises
    ------
    MeasureError
        torch.export cannot trace the model.
    """
    with _evaluating(model), silent_exporter():
        try:
            torch.export.save(torch.export.export(model, tuple(inputs), strict=False), path)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise MeasureError(f"the model cannot be exported: {reason}") from error
    return path


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Generator[None]:
    # A GraphModule from torch.export refuses eval(), and is in the mode it was exported in.
    modes = {module: module.training for module in model.modules()}
    with contextlib.suppress(NotImplementedError):
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
