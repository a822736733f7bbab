"""Kernels and programs as ONNX graphs, with logical shapes and plain tensors.

Which layout a tensor has is ONNX Runtime's business, which packs channels in blocks by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwprune.compile.shapes import SHAPES, Shape
from hwprune.errors import CompileError, UnsupportedOperatorError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program, Source
from hwprune.onnx_backend.fallback import emit_fallback
from hwprune.onnx_backend.graph import Graph, Value
from hwprune.onnx_backend.operators import EMIT
from hwprune.onnx_backend.windows import transposed, turned_padding

if TYPE_CHECKING:
    from onnx import ModelProto


def emit_kernel(g: Graph, spec: KernelSpec, inputs: Sequence[Value]) -> Value:
    """Write a kernel's operators; ``inputs`` has one value per ``spec.inputs``.

    Raises
    ------
    UnsupportedOperatorError
        An operator that ONNX cannot express, or another dtype than float32.
    """
    for item in spec.inputs:
        if item.dtype != "float32":
            raise UnsupportedOperatorError(f"kernel '{spec.label()}' has an input of {item.dtype}")
    values = list(inputs)
    for number, op in enumerate(spec.ops):
        args = [values[a] if a >= 0 else None for a in op.args]
        shape: Shape = SHAPES[op.kind](op, [a.shape for a in args if a is not None])
        if op.kind == "fallback":
            name = emit_fallback(g, op, [a for a in args if a is not None], shape)
        elif op.kind == "spread" and _absorbed(spec, number):
            values.append(Value("", shape))  # becomes part of the convolution behind it
            continue
        else:
            name = _transposed(g, spec, number, values) or EMIT[op.kind](g, op, args, shape)
        values.append(Value(name, tuple(shape)))
    return values[-1]


def _transposed(g: Graph, spec: KernelSpec, number: int, values: Sequence[Value]) -> str | None:
    """A convolution over an absorbed ``spread`` as one ConvTranspose; None for other operators."""
    op, before = spec.ops[number], spec.ops[number - 1]
    if number == 0 or not _absorbed(spec, number - 1):
        return None
    source = values[before.args[0]]
    return transposed(g, before, op, [source, *(values[a] if a >= 0 else None for a in op.args[1:])])


def _absorbed(spec: KernelSpec, number: int) -> bool:
    """Whether a ``spread`` is read by the next operator alone, a convolution that ONNX can turn."""
    if spec.ops[number].kind != "spread" or number + 1 == len(spec.ops):
        return False
    user, value = spec.ops[number + 1], len(spec.inputs) + number
    others = [op for op in spec.ops if value in op.args and op is not user]
    if user.kind not in ("conv2d", "depthwise_conv2d") or user.args[0] != value or others:
        return False
    if not 0 <= user.args[1] < len(spec.inputs) or spec.inputs[user.args[1]].role != "weight":
        return False
    return min(turned_padding(user, spec.inputs[user.args[1]].shape[2:])) >= 0


def kernel_graph(
    spec: KernelSpec, data: Mapping[int, Value], g: Graph, arrays: Sequence[np.ndarray] | None = None
) -> Value:
    """Write a kernel alone: ``data`` are its inputs that are no weights, by position.

    ``arrays`` has the weights among its entries; without them only shapes are known.
    """
    values: list[Value] = []
    for index, item in enumerate(spec.inputs):
        if item.role == "weight":
            array = np.broadcast_to(np.float32(0), item.shape) if arrays is None else arrays[index]
            values.append(g.weight(f"w{index}", array))
        else:
            values.append(data[index])
    return emit_kernel(g, spec, values)


def program_model(
    program: Program, *, weights_inside: bool = True, metadata: Mapping[str, str] | None = None
) -> ModelProto:
    """A network as one ONNX model: inputs ``input0``.., outputs ``output0``...

    Parameters
    ----------
    weights_inside
        False: names and shapes only, for timing.

    Raises
    ------
    UnsupportedOperatorError
        Naming the step and the operator.
    CompileError
        More weights than a file can hold.
    """
    from onnx import helper

    g = Graph()
    given = [Value(f"input{i}", tuple(shape)) for i, shape in enumerate(program.input_shapes)]
    results: list[Value] = []

    def value(source: Source) -> Value:
        if source.kind == "weight":
            return g.weight(f"weight{source.index}", program.weights[source.index])
        return given[source.index] if source.kind == "input" else results[source.index]

    for step in program.steps:
        inputs = [value(source) for source in step.sources]
        for item, found in zip(step.spec.inputs, inputs, strict=True):
            if tuple(item.shape) != found.shape:
                raise CompileError(
                    f"step '{step.name}': '{found.name}' has shape {found.shape},"
                    f" its kernel expects {tuple(item.shape)}",
                    hint="the program was built wrongly: check the step's sources",
                )
        try:
            results.append(emit_kernel(g, step.spec, inputs))
        except UnsupportedOperatorError as error:
            raise UnsupportedOperatorError(f"step '{step.name}': {error.message}", hint=error.hint) from error
    outputs: dict[str, Shape] = {}
    for number, source in enumerate(program.outputs):
        found = value(source)
        # A result may leave twice, or be an input: every output is a tensor of its own.
        name = f"output{number}"
        g.nodes.append(helper.make_node("Identity", [found.name], [name], name=name))
        outputs[name] = found.shape
    return g.model(
        {v.name: v.shape for v in given}, outputs, weights_inside=weights_inside, metadata=metadata
    )
