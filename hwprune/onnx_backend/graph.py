"""An ONNX graph that is being written: nodes, constants, weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hwprune.errors import CompileError, MissingExtraError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: Has every operator that is written here (Gelu came last), and ONNX Runtime 1.22 knows it.
OPSET = 20
#: Version of the file format that belongs to it.
IR_VERSION = 9
#: A protobuf message cannot be larger.
MAX_BYTES = 2**31 - 2**20

Shape = tuple[int, ...]


def require_packages() -> None:
    """Refuse to go on without onnx and onnxruntime.

    Raises
    ------
    MissingExtraError
        Naming what is missing.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{' and '.join(missing)} not installed, which the backend 'onnxruntime' needs",
            hint="pip install 'hwprune[onnx]'",
        )


@dataclass(frozen=True)
class Value:
    """A tensor of the graph; ``array`` is what a weight holds (shape-only weights: any zeros)."""

    name: str
    shape: Shape
    array: np.ndarray | None = None


@dataclass
class Graph:
    """Nodes in execution order, and what they read.

    ``weights`` are named by whoever adds them; a weight that an operator wants in another form
    is a weight of its own.
    """

    nodes: list[NodeProto] = field(default_factory=list["NodeProto"])
    weights: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    constants: dict[str, TensorProto] = field(default_factory=dict[str, "TensorProto"])
    _known: dict[tuple[str, Shape, bytes], str] = field(default_factory=dict[Any, str])
    _count: int = 0

    def fresh(self, hint: str) -> str:
        """A name nobody has."""
        self._count += 1
        return f"{hint}_{self._count}"

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; returns the name of its result. An empty input name stands for an absent one."""
        from onnx import helper

        out = self.fresh(kind.lower())
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        self.nodes.append(helper.make_node(kind, given, [out], name=out, **attributes))
        return out

    def constant(self, values: Any, dtype: str = "int64") -> str:
        """A small constant tensor; equal ones are shared."""
        from onnx import numpy_helper

        array = np.asarray(values, dtype)
        key = (dtype, array.shape, array.tobytes())
        if key not in self._known:
            name = self.fresh("const")
            self._known[key] = name
            self.constants[name] = numpy_helper.from_array(array, name)
        return self._known[key]

    def weight(self, name: str, array: np.ndarray) -> Value:
        """A weight; adding it a second time is no second one."""
        self.weights.setdefault(name, array)
        return Value(name, tuple(array.shape), array)

    def model(
        self,
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
        *,
        weights_inside: bool,
        metadata: Mapping[str, str] | None = None,
    ) -> ModelProto:
        """The finished model, checked.

        Parameters
        ----------
        weights_inside
            Store the weights; else the file has only their names and shapes, and whoever makes a
            session of it provides values (:func:`hwprune.onnx_backend.session.random_weights`).

        Raises
        ------
        CompileError
            The weights exceed what one file can hold, or the graph is malformed, which is our bug.
        """
        from onnx import helper, numpy_helper

        read = {name for node in self.nodes for name in node.input}
        used = {name: array for name, array in self.weights.items() if name in read}
        total = sum(4 * array.size for array in used.values())
        if weights_inside and total > MAX_BYTES:
            raise CompileError(
                f"the network has {total / 1e9:.1f} GB of weights, one .onnx file holds 2 GB",
                hint="compile for a target of the backend 'tvm'",
            )
        check = self._assemble(inputs, outputs, [], used)
        _check(check)
        made = numpy_helper.from_array if weights_inside else placeholder
        tensors = [made(_contiguous(a) if weights_inside else a, n) for n, a in used.items()]
        model = self._assemble(inputs, outputs, tensors, {})
        helper.set_model_props(model, dict(metadata or {}))
        return model

    def _assemble(
        self,
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
        weights: Sequence[TensorProto],
        as_inputs: Mapping[str, np.ndarray],
    ) -> ModelProto:
        from onnx import TensorProto, helper

        shapes = {**inputs, **{name: tuple(array.shape) for name, array in as_inputs.items()}}
        graph = helper.make_graph(
            self.nodes,
            "hwprune",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
            initializer=[*self.constants.values(), *weights],
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="hwprune")


def placeholder(array: np.ndarray, name: str) -> TensorProto:
    """A float32 weight of which the file holds name and shape only."""
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(array.shape)
    for key, value in (("location", "not-stored"), ("offset", "0"), ("length", str(4 * array.size))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def hollow_weights(model: ModelProto) -> dict[str, Shape]:
    """Weights of which a model has only the shape, by name."""
    from onnx import TensorProto

    tensors = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    return {tensor.name: tuple(tensor.dims) for tensor in tensors}


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _check(model: ModelProto) -> None:
    """Types and shapes of a model whose weights are inputs, so that no weight is copied for it."""
    from onnx import checker, shape_inference

    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise CompileError(
            f"the ONNX graph is malformed: {str(error).strip().splitlines()[0]}",
            hint="report this model: the exporter must not write such a graph",
        ) from error
