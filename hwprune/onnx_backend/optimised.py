"""A kernel as ONNX Runtime rewrites it inside a network: blocked layouts at its borders.

ONNX Runtime packs channels in blocks (NCHWc) and converts at the borders between operators that
can work on blocks and operators that cannot. A kernel that is a graph of its own would be
converted to and fro, which in a network it is not, and a sum would not be fused into the
convolution before it, because the other summand arrives unpacked. So every four-dimensional
activation gets a neighbour that speaks blocks, a 1x1 convolution; ONNX Runtime rewrites the whole;
then the neighbours are cut off, and the cut tensors become inputs and outputs of the graph. What
remains are the nodes that the kernel is inside a network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwprune.errors import CompileError
from hwprune.latency.kernel import KernelSpec
from hwprune.onnx_backend.export import kernel_graph
from hwprune.onnx_backend.graph import Graph, Shape, Value, hollow_weights
from hwprune.onnx_backend.session import make_session, random_array

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

#: What ONNX Runtime appends to the name of a node that it rewrites to blocks.
BLOCKED = "_nchwc"
#: Channels of the convolution behind a kernel: filled up to one block, they tell how large that is.
TAIL_CHANNELS = 1


@dataclass(frozen=True)
class Cut:
    """The nodes of a kernel in a rewritten graph.

    ``inputs`` are the activations by name with their physical shapes, in the order of the kernel's;
    ``output`` is the result, of the logical shape ``output_shape``. Those named in ``blocked`` hold
    channels in blocks.
    """

    model: ModelProto
    nodes: tuple[NodeProto, ...]
    inputs: dict[str, Shape]
    output: str
    output_shape: Shape
    blocked: frozenset[str]


def optimised_kernel(spec: KernelSpec, threads: int, arrays: Sequence[np.ndarray] | None = None) -> Cut:
    """Let ONNX Runtime rewrite a kernel among neighbours, and cut it out.

    A kernel that becomes part of a neighbour (padding before a convolution) is cut out of nothing:
    it stays plain.

    Parameters
    ----------
    arrays
        One array per ``spec.inputs``, where the values of the weights matter.

    Raises
    ------
    UnsupportedOperatorError
        ONNX cannot express an operator.
    CompileError
        ONNX Runtime refuses the kernel.
    """
    cut = _among_neighbours(spec, threads, arrays)
    if cut is None:
        inputs = tuple(replace(i, role="input") if i.role == "data" else i for i in spec.inputs)
        cut = _among_neighbours(replace(spec, inputs=inputs, plain_output=True), threads, arrays)
    if cut is None:
        raise CompileError(
            f"nothing is left of kernel '{spec.label()}' when ONNX Runtime has simplified it",
            hint="report this kernel: it cannot be timed",
        )
    return cut


def _among_neighbours(spec: KernelSpec, threads: int, arrays: Sequence[np.ndarray] | None) -> Cut | None:
    g = Graph()
    outer: dict[str, Shape] = {}  # inputs of the graph with neighbours
    borders: dict[str, Shape] = {}  # activations of the kernel: a neighbour's result, or an input
    leaving: dict[str, Shape] = {}
    data: dict[int, Value] = {}
    for index, item in enumerate(spec.inputs):
        if item.role == "weight":
            continue
        if item.role == "data" and len(item.shape) == 4:
            n, channels, *rest = item.shape
            outer[f"x{index}"] = (n, 1, *rest)
            weight = g.weight(f"before{index}", random_array((channels, 1, 1, 1)))
            name = g.node("Conv", [f"x{index}", weight.name])
            # A second reader: nothing of the kernel is fused into its neighbour.
            leaving[g.node("GlobalMaxPool", [name])] = (n, channels, 1, 1)
        else:
            name = f"x{index}"
            outer[name] = item.shape
        borders[name] = item.shape
        data[index] = Value(name, item.shape)
    result = kernel_graph(spec, data, g, arrays)
    if result.name in borders:
        result = Value(g.node("Identity", [result.name]), result.shape)
    last = result.name
    if len(result.shape) == 4 and not spec.plain_output:
        n, channels, *rest = result.shape
        weight = g.weight("behind", random_array((TAIL_CHANNELS, channels, 1, 1)))
        last = g.node("Conv", [result.name, weight.name])
        leaving[last] = (n, TAIL_CHANNELS, *rest)
    else:
        leaving[last] = result.shape
    model = g.model(outer, leaving, weights_inside=False)
    whole = rewritten(model, _values(g, model, known=arrays is not None), threads)
    return _cut(whole, borders, last, result)


def _values(g: Graph, model: ModelProto, *, known: bool) -> dict[str, np.ndarray]:
    shapes = hollow_weights(model)
    if known:
        return {name: np.ascontiguousarray(g.weights[name], np.float32) for name in shapes}
    return {name: random_array(shape) for name, shape in shapes.items()}


def rewritten(model: ModelProto, weights: Mapping[str, np.ndarray], threads: int) -> ModelProto:
    """A model as ONNX Runtime executes it on this machine."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="hwprune-") as folder:
        path = Path(folder) / "rewritten.onnx"
        make_session(model.SerializeToString(), threads, weights=weights, save=path)
        return onnx.load_model(path)


def _cut(model: ModelProto, borders: Mapping[str, Shape], last: str, result: Value) -> Cut | None:
    """What lies between the neighbours. ``last`` is the result, or that of the neighbour behind it.

    None where nothing lies there, or what does has become one with a neighbour.
    """
    graph, found = model.graph, set[str]()
    made_by = {name: node for node in graph.node for name in node.output}
    by_name = {node.name: node for node in graph.node}
    inputs: dict[str, Shape] = {}
    for name, shape in borders.items():
        neighbour = by_name.get(name + BLOCKED)
        if neighbour is None:
            inputs[name] = shape
        else:
            # Channels are filled up to whole blocks; the neighbour's weights say to how many.
            channels = _dims(graph, neighbour.input[1])[0]
            inputs[neighbour.output[0]] = (shape[0], channels, *shape[2:])
            found.add(neighbour.output[0])
    output = last
    if last != result.name:
        tail = by_name.get(last + BLOCKED)
        output = (tail or made_by[last]).input[0]
        # Fewer channels than a block are read as they are.
        if tail is not None and result.shape[1] >= _dims(graph, tail.input[1])[0]:
            found.add(output)
    nodes: list[NodeProto] = []
    wanted = {output}
    for node in reversed(graph.node):
        if wanted & set(node.output) and not set(node.output) & set(inputs):
            nodes.append(node)
            wanted |= set(node.input)
    if not nodes or wanted & {i.name for i in graph.input} - set(inputs):
        return None
    return Cut(model, tuple(reversed(nodes)), inputs, output, result.shape, frozenset(found))


def _dims(graph: GraphProto, name: str) -> Shape:
    return next(tuple(tensor.dims) for tensor in graph.initializer if tensor.name == name)
