"""One kernel as a library for the profiler: the very PrimFunc that ships, called several times.

``main`` takes the data inputs once and ``copies`` sets of weights, so that weights come from
memory as they do inside a network, and the virtual machine's cost of a call is in the number.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from hwprune.compile.layout import input_layouts
from hwprune.compile.pipeline import pipeline_hash
from hwprune.compile.shapes import Shape, kernel_flops
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


def suggested_copies(spec: KernelSpec, target: Target, cache_bytes: int = 1 << 25, most: int = 64) -> int:
    """Copies whose weights together do not fit a cache of ``cache_bytes``, within 1 and ``most``."""
    layouts = input_layouts(spec, target)
    size = 4 * sum(
        math.prod(x.shape) for x, i in zip(layouts, spec.inputs, strict=True) if i.role == "weight"
    )
    return max(1, min(most, -(-cache_bytes // size))) if size else 1


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
    sidecar = {
        "format": 1,
        "kernel": spec.digest(),
        "label": spec.label(),
        "target": target.name,
        "threads": target.threads,
        "pipeline": library.pipeline,
        "choice": choice_label(choice),
        "copies": copies,
        "flops": kernel_flops(spec),
        "dtype": "float32",
        "inputs": [list(s) for s in inputs],
        "weights": [list(s) for s in weights],
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar) + "\n")
    return library
