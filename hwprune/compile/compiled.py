"""Compiling a program: packed weights, one shared object, and a way to run it here."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwprune.compile.adapt import adapt
from hwprune.compile.bundle import KernelInfo, Parts, write_bundle
from hwprune.compile.layout import input_layouts, output_shape
from hwprune.compile.pipeline import PACKED, pipeline_hash, require_pipeline
from hwprune.compile.shapes import Shape, kernel_flops
from hwprune.compile.vm_runtime import VirtualMachine, check_inputs
from hwprune.errors import CompileError
from hwprune.latency.choice import ChoiceTable, choice_label
from hwprune.latency.program import Program, Source
from hwprune.target import Target, require_runnable

if TYPE_CHECKING:
    from hwprune.compile.build import Call


@dataclass(frozen=True)
class CompiledModule:
    """A compiled network. ``library`` lives as long as this object does.

    ``weights`` are physical (packed) arrays, in the order of the library's ``main``.
    """

    target: Target
    pipeline: str
    library: Path
    weights: tuple[np.ndarray, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    kernels: tuple[KernelInfo, ...]
    _directory: Any = field(repr=False, compare=False)

    @cached_property
    def _machine(self) -> VirtualMachine:
        require_runnable(self.target)
        return VirtualMachine(self.library, self.weights, self.target.threads)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network in this process.

        Parameters
        ----------
        inputs
            float32 arrays of ``input_shapes``.

        Raises
        ------
        UsageError
            Wrong number, shape or dtype of inputs.
        TargetError
            This machine lacks the target's instructions.
        """
        check_inputs(inputs, self.input_shapes)
        return self._machine.run(inputs)

    def save(self, directory: Path, provenance: dict[str, Any]) -> None:
        """Write a bundle; see :func:`hwprune.compile.bundle.write_bundle`.

        Raises
        ------
        ArtifactError
            ``directory`` exists and is not a bundle.
        """
        parts = Parts(
            self.library,
            self.weights,
            self.target,
            self.pipeline,
            self.input_shapes,
            self.output_shapes,
            self.kernels,
            provenance,
        )
        write_bundle(parts, Path(directory))


def _source_shape(program: Program, source: Source, target: Target) -> Shape:
    if source.kind == "input":
        return program.input_shapes[source.index]
    return output_shape(program.steps[source.index].spec, target)


def _check_links(program: Program, target: Target) -> None:
    """Every source must have the shape its kernel expects: a wrong program, not a wrong model."""
    for step in program.steps:
        layouts = input_layouts(step.spec, target)
        for item, layout, source in zip(step.spec.inputs, layouts, step.sources, strict=True):
            if source.kind == "weight":
                given = program.weights[source.index].shape
                expected = item.shape
            else:
                given, expected = _source_shape(program, source, target), layout.shape
            if tuple(given) != tuple(expected):
                raise CompileError(
                    f"step '{step.name}': {source.kind} {source.index} has shape {tuple(given)},"
                    f" its kernel expects {tuple(expected)}",
                    hint="the program was built wrongly: check the step's sources",
                )


def _pack(program: Program, target: Target, choices: ChoiceTable) -> tuple[list[Call], list[np.ndarray]]:
    from hwprune.compile.build import Call

    calls: list[Call] = []
    packed: list[np.ndarray] = []
    places: dict[tuple[int, Any], int] = {}
    for step in program.steps:
        sources: list[Source] = []
        choice = choices.get(step.spec)
        for layout, source in zip(input_layouts(step.spec, target, choice), step.sources, strict=True):
            if source.kind != "weight":
                sources.append(source)
                continue
            key = (source.index, layout)
            if key not in places:
                places[key] = len(packed)
                packed.append(layout.pack(program.weights[source.index]))
            sources.append(Source("weight", places[key]))
        calls.append(Call(step.name, step.spec, tuple(sources), choice))
    return calls, packed


def compile_program(program: Program, target: Target, choices: ChoiceTable | None = None) -> CompiledModule:
    """Compile a network for a CPU target.

    Parameters
    ----------
    program
        The network.
    target
        What it is for.
    choices
        Searched choices (:meth:`ChoiceTable.load` of the directory of the latency table that the
        network was planned with); kernels without one are built in their default form.

    Raises
    ------
    UnsupportedOperatorError
        Before any code is generated, naming step and operator.
    CompileError
        No code generator for the target, no linker, an inconsistent program, or TVM failed.
    """
    if target.kind != "cpu":
        raise CompileError(
            f"no code generator for kind '{target.kind}' yet (target '{target.name}')",
            hint="use a target of kind 'cpu'",
        )
    require_pipeline(target, PACKED)
    from hwprune.compile.build import Call, build_shared, check_calls, relax_module

    choices = choices or ChoiceTable()
    check_calls([Call(s.name, s.spec, s.sources, choices.get(s.spec)) for s in program.steps], target)
    program = adapt(program)
    _check_links(program, target)
    calls, packed = _pack(program, target, choices)
    module = relax_module(program.input_shapes, [w.shape for w in packed], calls, program.outputs, target)
    directory = tempfile.TemporaryDirectory(prefix="hwprune-module-")
    library = Path(directory.name) / "model.so"
    build_shared(module, target, library)
    return CompiledModule(
        target=target,
        pipeline=pipeline_hash(target),
        library=library,
        weights=tuple(packed),
        input_shapes=tuple(tuple(s) for s in program.input_shapes),
        output_shapes=tuple(_source_shape(program, o, target) for o in program.outputs),
        kernels=tuple(
            KernelInfo(
                name=s.name,
                label=s.spec.label(),
                digest=s.spec.digest(),
                flops=kernel_flops(s.spec),
                choice=choice_label(choices.get(s.spec)),
            )
            for s in program.steps
        ),
        _directory=directory,
    )
