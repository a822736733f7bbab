"""A whole network as a library for end-to-end timing: real kernels, no real weights."""

from __future__ import annotations

from pathlib import Path

from hwprune.compile.adapt import adapt
from hwprune.compile.layout import input_layouts
from hwprune.compile.shapes import Shape
from hwprune.compile.sidecar import write_sidecar
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.program import Program, Source
from hwprune.target import Target


def build_program_library(
    program: Program, target: Target, path: Path, choices: ChoiceTable | None = None
) -> None:
    """Build ``path`` (a ``.so``) and its sidecar for :class:`hwprune.compile.KernelRunner`.

    Only the shapes of the program's weights count; the runner fills them with random numbers.
    ``choices`` are those of :func:`hwprune.compile.compile_program`.

    Raises
    ------
    UnsupportedOperatorError, CompileError
        As :func:`hwprune.compile.compile_program`.
    """
    from hwprune.compile.build import Call, build_shared, check_calls, relax_module

    choices = choices or ChoiceTable()
    check_calls([Call(s.name, s.spec, s.sources, choices.get(s.spec)) for s in program.steps], target)
    program = adapt(program)
    weights: list[Shape] = []
    calls: list[Call] = []
    for step in program.steps:
        sources: list[Source] = []
        choice = choices.get(step.spec)
        for layout, source in zip(input_layouts(step.spec, target, choice), step.sources, strict=True):
            if source.kind == "weight":
                source = Source("weight", len(weights))
                weights.append(layout.shape)
            sources.append(source)
        calls.append(Call(step.name, step.spec, tuple(sources), choice))
    module = relax_module(program.input_shapes, weights, calls, program.outputs, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    build_shared(module, target, path)
    write_sidecar(path, target, copies=1, inputs=program.input_shapes, weights=weights)
