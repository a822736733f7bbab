"""Repacking steps where two kernels disagree on the layout of a tensor between them.

That happens only where a tensor leaves the network and feeds another kernel as well, where an
input of the network is read as packed data, or where a packed result is an output.
"""

from __future__ import annotations

from dataclasses import replace

from hwprune.compile.shapes import Shape, infer_shapes
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.latency.program import Program, Source, Step


def _identity(shape: Shape, packs: bool) -> KernelSpec:
    """A kernel that only changes the layout: a concatenation of one part."""
    role = "input" if packs else "data"
    return KernelSpec((KernelInput(shape, role),), (KernelOp("cat", (0,)),), plain_output=not packs)


def adapt(program: Program) -> Program:
    """The program with repacking steps inserted; the same object if it needs none."""
    steps: list[Step] = []
    moved: dict[int, Source] = {}
    repacked: dict[tuple[Source, bool], Source] = {}
    shapes = [infer_shapes(step.spec)[-1] for step in program.steps]

    def shape_of(source: Source) -> Shape:
        return program.input_shapes[source.index] if source.kind == "input" else shapes[source.index]

    def is_plain(source: Source) -> bool:
        return source.kind == "input" or program.steps[source.index].spec.plain_output

    def with_layout(source: Source, plain: bool) -> Source:
        here = moved[source.index] if source.kind == "step" else source
        if len(shape_of(source)) != 4 or is_plain(source) == plain:
            return here
        key = (source, plain)
        if key not in repacked:
            spec = _identity(shape_of(source), packs=not plain)
            steps.append(Step(f"repack_{source.kind}{source.index}", spec, (here,)))
            repacked[key] = Source("step", len(steps) - 1)
        return repacked[key]

    for number, step in enumerate(program.steps):
        sources = tuple(
            source if source.kind == "weight" else with_layout(source, item.role == "input")
            for source, item in zip(step.sources, step.spec.inputs, strict=True)
        )
        steps.append(replace(step, sources=sources))
        moved[number] = Source("step", len(steps) - 1)
    outputs = tuple(with_layout(output, plain=True) for output in program.outputs)
    return replace(program, steps=tuple(steps), outputs=outputs)
