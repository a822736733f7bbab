"""What a timed kernel model computes, for comparison with a reference."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwprune.errors import CompileError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.onnx_backend.graph import IR_VERSION, hollow_weights, require_packages
from hwprune.onnx_backend.optimised import optimised_kernel
from hwprune.onnx_backend.session import make_session, run_session
from hwprune.target import Target

if TYPE_CHECKING:
    from onnx import TensorProto

#: The domain of ONNX Runtime's own operators on blocks of channels.
DOMAIN = "com.microsoft.nchwc"


def run_kernel_model(
    path: Path, spec: KernelSpec, target: Target, choice: Choice | None, arrays: Sequence[np.ndarray]
) -> np.ndarray:
    """Run a model of :func:`hwprune.onnx_backend.kernel_model.build_kernel_model`.

    Parameters
    ----------
    arrays
        One per ``spec.inputs``, logical layout. All copies of the kernel get the same weights.

    Returns
    -------
    numpy.ndarray
        The last copy's result, logical layout.

    Raises
    ------
    CompileError
        ONNX Runtime refuses the model, or the file holds another kernel.
    """
    import onnx

    require_packages()
    # The rewriting that made the file also makes its weights out of ours, under the same names.
    cut = optimised_kernel(spec, target.threads, arrays)
    model = onnx.load_model(path, load_external_data=False)
    known = {tensor.name: tensor for tensor in cut.model.graph.initializer}
    weights = _weights(known, hollow_weights(model), path)
    for tensor in model.graph.initializer:
        if tensor.name in known:  # too small to be left out of the file
            tensor.CopyFrom(known[tensor.name])
    session = make_session(model.SerializeToString(), target.threads, weights=weights, optimise=False)
    given = [a for a, item in zip(arrays, spec.inputs, strict=True) if item.role != "weight"]
    inputs = [
        packed(array, cut.inputs[name][1]) if name in cut.blocked else array
        for array, name in zip(given, cut.inputs, strict=True)  # the order is the kernel's
    ]
    result = run_session(session, inputs)[0]
    return unpacked(result, cut.output_shape[1]) if cut.output in cut.blocked else result


def _weights(
    known: Mapping[str, TensorProto], hollow: Mapping[str, Sequence[int]], path: Path
) -> dict[str, np.ndarray]:
    """Physical weights of all copies, by their names in the file."""
    from onnx import numpy_helper

    weights: dict[str, np.ndarray] = {}
    for name, shape in hollow.items():
        tensor = known.get(re.sub(r"_\d+$", "", name))
        if tensor is None or tuple(tensor.dims) != tuple(shape):
            raise CompileError(
                f"{path} does not hold this kernel: its weight '{name}' is another", hint="build it again"
            )
        weights[name] = np.array(numpy_helper.to_array(tensor))
    return weights


def packed(array: np.ndarray, channels: int) -> np.ndarray:
    """``[N,C,H,W]`` filled up to ``channels`` and with these in blocks, by ONNX Runtime itself."""
    behind = ((0, 0), (0, channels - array.shape[1]), (0, 0), (0, 0))
    return _reorder("ReorderInput", np.pad(array, behind))


def unpacked(array: np.ndarray, channels: int) -> np.ndarray:
    """Inverse of :func:`packed`."""
    return _reorder("ReorderOutput", array, channels=channels)


def _reorder(kind: str, array: np.ndarray, **attributes: Any) -> np.ndarray:
    from onnx import TensorProto, helper

    node = helper.make_node(kind, ["x"], ["y"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "reorder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, array.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return run_session(make_session(model.SerializeToString(), 1), [np.ascontiguousarray(array)])[0]
