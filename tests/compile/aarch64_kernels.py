"""Kernels built for aarch64, run by emulation and compared with float64 torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hwprune.compile.build import Call, build_shared, check_calls, relax_module
from hwprune.compile.layout import input_layouts, output_shape
from hwprune.compile.primfunc import kernel_symbol
from hwprune.compile.shapes import infer_shapes
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Source
from hwprune.target import Target
from tests.compile.aarch64_emulator import Counts, Emulator
from tests.compile.programs import evaluate, normal, relative_error


def build_kernels(specs: Sequence[KernelSpec], target: Target, path: Path) -> Emulator:
    """All kernels in one shared object, compiled and linked as any network is."""
    shapes: list[tuple[int, ...]] = []
    calls: list[Call] = []
    for number, spec in enumerate(specs):
        layouts = input_layouts(spec, target)
        sources = tuple(Source("input", len(shapes) + i) for i in range(len(layouts)))
        shapes += [layout.shape for layout in layouts]
        calls.append(Call(f"kernel{number}", spec, sources))
    check_calls(calls, target)
    outputs = [Source("step", i) for i in range(len(calls))]
    build_shared(relax_module(shapes, [], calls, outputs, target), target, path)
    return Emulator(path)


def unpacked(physical: np.ndarray, shape: tuple[int, ...], plain: bool) -> np.ndarray:
    """A kernel's physical result as a logical array of ``shape``."""
    if len(shape) != 4 or plain:
        return physical
    n, channels, height, width = shape
    return physical.transpose(0, 1, 4, 2, 3).reshape(n, -1, height, width)[:, :channels]


def run_kernel(
    emulator: Emulator, spec: KernelSpec, target: Target, *, count: bool = False, at_end: bool = False
) -> tuple[float, Counts | None]:
    """Relative error of a kernel on random arguments, and what ran."""
    logical = [(1 if i.role == "weight" else 3) * normal(*i.shape) for i in spec.inputs]
    physical = [layout.pack(a) for layout, a in zip(input_layouts(spec, target), logical, strict=True)]
    result, counts = emulator.call(
        kernel_symbol(spec), physical, output_shape(spec, target), count=count, at_end=at_end
    )
    expected = evaluate(spec, [torch.from_numpy(a.astype(np.float64)) for a in logical]).numpy()
    return relative_error(unpacked(result, infer_shapes(spec)[-1], spec.plain_output), expected), counts
