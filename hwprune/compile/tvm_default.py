"""Pipeline ``tvm-default``: a whole network the way TVM compiles it as it comes, for comparison.

PyTorch's exported program goes through TVM's own importer and its default build pipeline: no
packing, no schedules of ours, no fusion beyond what TVM does by itself. Nothing here is meant to
be fast, and latency tables cannot be made with it: it has no fused kernels that could be timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwprune.compile.bundle import KernelInfo
from hwprune.compile.compiled import CompiledModule
from hwprune.compile.pipeline import TVM_DEFAULT, pipeline_hash, require_pipeline
from hwprune.errors import CompileError
from hwprune.target import Target

if TYPE_CHECKING:
    import torch


def compile_tvm_default(
    model: torch.nn.Module, example_inputs: Sequence[torch.Tensor], target: Target
) -> CompiledModule:
    """Compile a model by TVM's importer and default pipeline.

    Parameters
    ----------
    model
        Any exportable module, in evaluation mode.
    example_inputs
        Float32; their shapes are the module's shapes.
    target
        A CPU target with ``pipeline = "tvm-default"``.

    Raises
    ------
    CompileError
        The model cannot be exported, TVM's importer or code generator refuses it, or the target
        names another pipeline.
    """
    require_pipeline(target, TVM_DEFAULT)
    from hwprune.compile.build import link_executable, tvm_target
    from hwprune.compile.tvm_api import relax, transform, version

    llvm = tvm_target(target)
    module, weights, outputs = _imported(model, tuple(example_inputs))
    try:
        with transform.PassContext(opt_level=3):
            executable = relax.build(module, target=llvm)
    except Exception as error:
        raise CompileError(f"TVM {version}'s default pipeline failed: {str(error)[:2000]}") from error
    directory = tempfile.TemporaryDirectory(prefix="hwprune-module-")
    library = Path(directory.name) / "model.so"
    link_executable(executable, target, library)
    return CompiledModule(
        target=target,
        pipeline=pipeline_hash(target),
        library=library,
        weights=tuple(weights),
        input_shapes=tuple(tuple(int(n) for n in x.shape) for x in example_inputs),
        output_shapes=outputs,
        kernels=tuple(_calls(module)),
        _directory=directory,
    )


def _imported(
    model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[Any, list[np.ndarray], tuple[tuple[int, ...], ...]]:
    """Relax module, its weights in the order of ``main``, and the shapes of its outputs."""
    import torch

    from hwprune.compile.tvm_api import torch_importer, version

    try:
        with torch.no_grad():
            exported = torch.export.export(model, inputs, strict=False)
            result = model(*inputs)
        module, weights = torch_importer(exported)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise CompileError(
            f"TVM {version} cannot import this model: {type(error).__name__}: {first}",
            hint='use pipeline = "cpu-packed"',
        ) from error
    tensors = list(result) if isinstance(result, tuple | list) else [result]
    other = [w.dtype for w in weights if w.dtype != np.float32]
    if other:
        raise CompileError(f"the pipeline {TVM_DEFAULT} takes float32 weights only, not {other[0]}")
    return module, weights, tuple(tuple(int(n) for n in t.shape) for t in tensors)


def _calls(module: Any) -> list[KernelInfo]:
    """The operators of ``main`` in order; TVM makes one kernel of each and counts no operations."""
    found: list[KernelInfo] = []
    for block in module["main"].body.blocks:
        for number, binding in enumerate(block.bindings):
            operator = getattr(getattr(binding.value, "op", None), "name", None)
            if operator is not None:
                found.append(KernelInfo(name=f"{operator}.{number}", label=str(operator), digest="", flops=0))
    return found
