"""One kernel as a library for the profiler: the very PrimFunc that ships, called several times.

``main`` takes the data inputs once and ``copies`` sets of weights, so that weights come from
memory as they do inside a network, and the virtual machine's cost of a call is in the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwprune.compile.layout import input_layouts
from hwprune.compile.pipeline import pipeline_hash
from hwprune.compile.shapes import Shape, kernel_flops
from hwprune.compile.sidecar import write_sidecar
from hwprune.latency.choice import Choice, choice_label
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Source
from hwprune.target import Target


@dataclass(frozen=True)
class KernelLibrary:
    """A built kernel library and its sidecar (``path`` with the ending ``.json``)."""

    path: Path
    spec: KernelSpec
    pipeline: str
    copies: int
    inputs: tuple[Shape, ...]
    weights: tuple[Shape, ...]


def build_kernel_library(
    spec: KernelSpec, target: Target, path: Path, copies: int, choice: Choice | None = None
) -> KernelLibrary:
    """Build ``path`` (a ``.so``) and its sidecar; ``choice`` None is the kernel's default form.

    Raises
    ------
    UnsupportedOperatorError, CompileError
        As :func:`hwprune.compile.compile_program`.
    """
    from hwprune.compile.build import Call, build_shared, check_calls, relax_module

    layouts = input_layouts(spec, target, choice)
    inputs: list[Shape] = []
    weights: list[Shape] = []
    calls: list[Call] = []
    data: dict[int, Source] = {}
    for index, (item, layout) in enumerate(zip(spec.inputs, layouts, strict=True)):
        if item.role != "weight":
            data[index] = Source("input", len(inputs))
            inputs.append(layout.shape)
    for copy in range(copies):
        sources: list[Source] = []
        for index, (item, layout) in enumerate(zip(spec.inputs, layouts, strict=True)):
            if item.role == "weight":
                sources.append(Source("weight", len(weights)))
                weights.append(layout.shape)
            else:
                sources.append(data[index])
        calls.append(Call(f"copy{copy}", spec, tuple(sources), choice))
    check_calls(calls[:1], target)
    module = relax_module(inputs, weights, calls, [Source("step", copies - 1)], target)
    path.parent.mkdir(parents=True, exist_ok=True)
    build_shared(module, target, path)
    library = KernelLibrary(path, spec, pipeline_hash(target), copies, tuple(inputs), tuple(weights))
    about = {
        "kernel": spec.digest(),
        "label": spec.label(),
        "target": target.name,
        "pipeline": library.pipeline,
        "choice": choice_label(choice),
        "flops": kernel_flops(spec),
    }
    write_sidecar(path, target, copies=copies, inputs=inputs, weights=weights, about=about)
    return library
