"""Compile a model for a target, and check what came out against PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hwprune.capture import capture
from hwprune.compile import CompiledModule, compile_program, compile_tvm_default
from hwprune.compile.pipeline import TVM_DEFAULT, known_pipeline
from hwprune.errors import CompileError, UsageError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.fusion import fuse
from hwprune.latency.program import Program
from hwprune.measure.backend import refuse_forms
from hwprune.measure.proposer import require_tuner
from hwprune.measure.rpc_site import RpcSite
from hwprune.measure.search import search as search_forms
from hwprune.measure.site import Site
from hwprune.measure.sites import site_for
from hwprune.measure.toolchain import toolchain_directory
from hwprune.measure.tune import TuneReport, require_minutes
from hwprune.measure.tune import tune as tune_kernels
from hwprune.onnx_backend.module import OnnxModule, compile_onnx
from hwprune.target import Target, require_runnable

#: Compiled float32 outputs differ from PyTorch by rounding only: at most this, relative to the
#: largest output.
TOLERANCE = 1e-4


#: With Winograd convolution, which a search may choose where it is faster.
WINOGRAD_TOLERANCE = 1e-3


def compile_model(
    model: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    target: Target,
    *,
    check: bool = True,
    search: bool | None = None,
    minutes: float | None = None,
    tune: float | None = None,
    tuned: Callable[[TuneReport], None] | None = None,
    tables: Path | None = None,
    seed: int = 0,
    site: Site | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[CompiledModule | OnnxModule, float]:
    """Compile a model and compare it with PyTorch on the example inputs.

    For a target whose backend is ``onnxruntime`` the result is an ONNX model.

    Parameters
    ----------
    model
        Pruned or dense; it is not changed.
    example_inputs
        Their shapes are the compiled module's shapes.
    target
        CPU target; its ``pipeline`` decides who generates the code.
    check
        Run the module and compare; only possible where this machine or the site can run the target.
    search
        True: search for the fastest form of every kernel that has not been searched; False: build
        the deterministic defaults; None: take the forms that were searched before, if any, which
        are those that the latency table was measured with.
    minutes
        Begin no new batch of a search after this long.
    tune
        After the search, which this asks for, look deeper for this many minutes where kernels stay
        behind (:func:`hwprune.measure.tune.tune`).
    tuned
        Called with what that has found.
    tables
        Root of the tables that the choices lie beside (default: the user's cache directory).
    site
        Where the target's devices are. Default: what the target and the environment ask for.

    Returns
    -------
    tuple
        The module, and its largest difference from PyTorch relative to the largest output (NaN
        without check).

    Raises
    ------
    CompileError
        No code generator, TVM failed, or the outputs differ by more than ``1e-4`` (``1e-3`` where
        a kernel is computed by Winograd's algorithm).
    TargetError
        The check was asked for, and this machine cannot run the target.
    UsageError
        Search or tuning was asked for and cannot be: no time, no forms, or searching was forbidden.
    MissingExtraError
        Tuning needs ``hwprune[tune]``.
    """
    if target.backend == "onnxruntime":
        refuse_forms(target, search or tune is not None)
    else:
        known_pipeline(target)
    if tune is not None:
        require_minutes(tune)
        if search is False:
            raise UsageError(
                "tuning goes on where the search ends, and --no-search leaves that out",
                hint="drop --no-search, or drop --tune",
            )
        require_tuner()
        search = True
    site = site or site_for(target)
    if isinstance(site, RpcSite):
        site.require_fit(target)
    elif check:
        require_runnable(target)
    captured = capture(model, tuple(example_inputs))
    if target.backend == "onnxruntime":
        module = compile_onnx(fuse(captured.graph).program(), target)
    elif target.pipeline == TVM_DEFAULT:
        if search:
            raise UsageError(
                f"pipeline '{target.pipeline}' has no forms of kernels to search",
                hint="compile without --search, or use a target with the pipeline cpu-packed",
            )
        module = compile_tvm_default(captured.graph, captured.example_inputs, target)
    else:
        program = fuse(captured.graph).program()
        choices = _choices(program, target, site, search, minutes, tables, seed, progress)
        if tune is not None:
            directory = toolchain_directory(target, tables)
            specs = [step.spec for step in program.steps]
            report = tune_kernels(specs, target, directory, minutes=tune, progress=progress, seed=seed)
            if tuned is not None:
                tuned(report)
            choices = ChoiceTable.load(toolchain_directory(target, tables))
        module = compile_program(program, target, choices)
    if not check:
        return module, float("nan")
    outputs = _outputs(module, [x.detach().numpy() for x in captured.example_inputs], target, site)
    error = max_rel_error(captured.graph, captured.example_inputs, outputs)
    winograd = any(k.choice.startswith("winograd") for k in module.kernels)
    if not error <= (WINOGRAD_TOLERANCE if winograd else TOLERANCE):
        raise CompileError(
            f"the compiled module differs from PyTorch by {error:.1e} of the largest output",
            hint="report this model: compiled code must not change results",
        )
    return module, error


def _outputs(
    module: CompiledModule | OnnxModule, inputs: list[np.ndarray], target: Target, site: Site
) -> list[np.ndarray]:
    if not isinstance(site, RpcSite):
        return module.run(*inputs)
    with tempfile.TemporaryDirectory(prefix="hwprune-check-") as scratch:
        module.save(Path(scratch) / "bundle", {"for": "a check on the device"})
        return site.run_bundle(Path(scratch) / "bundle", inputs, target)


def _choices(
    program: Program,
    target: Target,
    site: Site,
    search: bool | None,
    minutes: float | None,
    tables: Path | None,
    seed: int,
    progress: Callable[[int, int, str], None] | None,
) -> ChoiceTable | None:
    # The measurements of another machine are not here: only a target that runs here has choices.
    remote = isinstance(site, RpcSite)
    if search is False or (search is None and (remote or target.runner != "local")):
        return None
    directory = toolchain_directory(target, tables, site.device().slug if remote else None)
    if search:
        specs = [step.spec for step in program.steps]
        search_forms(specs, target, directory, minutes=minutes, progress=progress, seed=seed, site=site)
        directory = toolchain_directory(target, tables)  # a shipped table was copied to the user's own
    return ChoiceTable.load(directory)


def max_rel_error(model: nn.Module, inputs: Sequence[torch.Tensor], outputs: Sequence[np.ndarray]) -> float:
    """Largest difference from PyTorch in float32, relative to the largest output of each tensor."""
    with torch.no_grad():
        result = model(*inputs)
    expected = list(result) if isinstance(result, tuple | list) else [result]
    errors = [
        float(np.abs(o - e.numpy()).max()) / max(float(e.abs().max()), 1e-30)
        for o, e in zip(outputs, expected, strict=True)
    ]
    return max(errors)
