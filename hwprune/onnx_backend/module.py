"""A network as an ONNX model with its weights, and a way to run it here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compile.bundle import KernelInfo, Manifest, TensorInfo, installed_version
from hwprune.compile.shapes import Shape, infer_shapes, kernel_flops
from hwprune.compile.vm_runtime import check_inputs
from hwprune.errors import CompileError
from hwprune.latency.program import Program, Source
from hwprune.onnx_backend.bundle import RUNTIME, write_onnx_bundle
from hwprune.onnx_backend.export import program_model
from hwprune.onnx_backend.graph import require_packages
from hwprune.onnx_backend.pipeline import onnx_pipeline_hash, require_onnx_pipeline
from hwprune.onnx_backend.session import make_session, run_session
from hwprune.target import Target


@dataclass(frozen=True)
class OnnxModule:
    """An exported network. ``model`` is what ``model.onnx`` of its bundle holds.

    It has the attributes and methods of :class:`hwprune.compile.CompiledModule`.
    """

    target: Target
    pipeline: str
    model: bytes
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    kernels: tuple[KernelInfo, ...]

    @cached_property
    def _session(self) -> Any:
        return make_session(self.model, self.target.threads)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network in this process; float32 arrays of ``input_shapes``.

        Raises
        ------
        UsageError
            Wrong number, shape or dtype of inputs.
        """
        check_inputs(inputs, self.input_shapes)
        return run_session(self._session, inputs)

    def save(self, directory: Path, provenance: dict[str, Any]) -> None:
        """Write a bundle; see :func:`hwprune.onnx_backend.bundle.write_onnx_bundle`.

        Raises
        ------
        ArtifactError
            ``directory`` exists and is not a bundle.
        """
        manifest = Manifest(
            target=self.target,
            pipeline=self.pipeline,
            runtime=RUNTIME,
            versions={name: installed_version(name) for name in ("hwprune", "onnx", "onnxruntime")},
            inputs=tuple(TensorInfo(shape=s) for s in self.input_shapes),
            outputs=tuple(TensorInfo(shape=s) for s in self.output_shapes),
            kernels=self.kernels,
            files={},
            provenance=provenance,
        )
        write_onnx_bundle(self.model, manifest, Path(directory))


def compile_onnx(program: Program, target: Target) -> OnnxModule:
    """Export a network for a target of the backend ``onnxruntime``.

    Raises
    ------
    UnsupportedOperatorError
        ONNX cannot express an operator; step and operator are named.
    CompileError
        The target is not for this backend, or the model would exceed 2 GB.
    MissingExtraError
        onnx or onnxruntime is not installed.
    """
    require_packages()
    require_onnx_pipeline(target)
    if target.kind != "cpu":
        raise CompileError(
            f"the backend 'onnxruntime' runs on CPUs only, target '{target.name}' is of kind '{target.kind}'",
            hint="use a target of kind 'cpu'",
        )
    pipeline = onnx_pipeline_hash(target)
    metadata = {"hwprune_pipeline": pipeline, "hwprune_target": target.name}
    model = program_model(program, metadata=metadata)
    shapes = [infer_shapes(step.spec)[-1] for step in program.steps]

    def shape_of(source: Source) -> Shape:
        return tuple(program.input_shapes[source.index] if source.kind == "input" else shapes[source.index])

    return OnnxModule(
        target=target,
        pipeline=pipeline,
        model=model.SerializeToString(),
        input_shapes=tuple(tuple(s) for s in program.input_shapes),
        output_shapes=tuple(shape_of(o) for o in program.outputs),
        kernels=tuple(
            KernelInfo(name=s.name, label=s.spec.label(), digest=s.spec.digest(), flops=kernel_flops(s.spec))
            for s in program.steps
        ),
    )
