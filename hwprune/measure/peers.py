"""Other ways to run a model, for comparison with its bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from hwprune.capture import capture
from hwprune.errors import HwpruneError, MissingExtraError
from hwprune.latency.fusion import fuse
from hwprune.measure.contenders import Contender, onnx_contender, torch_contender
from hwprune.measure.export import onnx_export, save_exported
from hwprune.onnx_backend.export import program_model
from hwprune.onnx_backend.graph import require_packages

_log = logging.getLogger(__name__)


def eager(model: nn.Module, inputs: Sequence[torch.Tensor], stem: Path) -> Contender:
    """PyTorch, operator by operator; ``stem`` is the file to make, without its ending.

    Raises
    ------
    MeasureError
        torch.export cannot trace the model.
    """
    return torch_contender(save_exported(model, inputs, stem.with_suffix(".pt2")))


def onnx_runtime(model: nn.Module, inputs: Sequence[torch.Tensor], stem: Path) -> Contender:
    """ONNX Runtime on the graph that the backend ``onnxruntime`` would ship.

    A model that has no such graph is exported by torch, as its author would.

    Raises
    ------
    MissingExtraError
        onnx or onnxruntime is not installed.
    MeasureError
        torch cannot express the model in ONNX either.
    """
    require_packages()
    path = stem.with_suffix(".onnx")
    try:
        program = fuse(capture(model, tuple(inputs)).graph).program()
        path.write_bytes(program_model(program).SerializeToString())
    except MissingExtraError:
        raise
    except HwpruneError as error:
        _log.info("exported by torch instead: %s", error.message)
        onnx_export(model, inputs, path)
    return onnx_contender(path)
