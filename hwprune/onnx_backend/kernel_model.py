"""One kernel for the profiler: the nodes it is in a network, several times, each with own weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwprune.compile.shapes import kernel_flops
from hwprune.errors import UsageError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.onnx_backend.export import program_model
from hwprune.onnx_backend.graph import IR_VERSION, Shape, hollow_weights, placeholder, require_packages
from hwprune.onnx_backend.optimised import Cut, optimised_kernel
from hwprune.onnx_backend.pipeline import onnx_pipeline_hash, require_onnx_pipeline
from hwprune.target import Target

if TYPE_CHECKING:
    from onnx import ModelProto

#: Float tensors of at least so many elements are weights, whose values do not matter for time;
#: smaller ones may be bounds or scales.
WEIGHT_ELEMENTS = 32
#: Results that take less than this together may stay, and spare a reader each (0.2 us).
UNREAD_BYTES = 2**20


def build_kernel_model(
    spec: KernelSpec, target: Target, path: Path, copies: int, choice: Choice | None = None
) -> None:
    """Build ``path`` (an ONNX model without weights) and its sidecar (ending ``.json``).

    Raises
    ------
    UsageError
        A searched form was asked for: ONNX Runtime chooses for itself.
    UnsupportedOperatorError, CompileError
        The kernel cannot be written as ONNX, or ONNX Runtime refuses it.
    MissingExtraError
        onnx or onnxruntime is not installed.
    """
    require_packages()
    require_onnx_pipeline(target)
    if choice is not None:
        raise UsageError(
            f"kernel '{spec.label()}' cannot be built as '{choice.label()}' by ONNX Runtime",
            hint="delete choices.json beside the table: this backend has no forms to search",
        )
    model, weights = _repeated(optimised_kernel(spec, target.threads), copies)
    about = {"kernel": spec.digest(), "label": spec.label(), "flops": kernel_flops(spec)}
    _write(model, path, target, copies, weights, optimise=False, about=about)


def build_program_model(program: Program, target: Target, path: Path, choices: Any = None) -> None:
    """Build ``path`` and its sidecar for timing a whole network: real graph, no real weights.

    The graph is the one that ships, and rewritten by ONNX Runtime when it is loaded.

    Raises
    ------
    UnsupportedOperatorError, CompileError, MissingExtraError
        As :func:`build_kernel_model`.
    """
    require_packages()
    require_onnx_pipeline(target)
    model = program_model(program, weights_inside=False)
    _write(model, path, target, 1, hollow_weights(model), optimise=True, about={})


def _repeated(cut: Cut, copies: int) -> tuple[ModelProto, dict[str, Shape]]:
    """The nodes ``copies`` times: one set of inputs, each copy with weights of its own.

    Only the last copy's result leaves the graph. The others need a reader, without which ONNX Runtime
    keeps them to the end of a run: each copy would write to memory that no cache holds, where a
    network uses a few buffers again and again. ``Shape`` reads nothing of the tensor itself.
    """
    import onnx
    from onnx import TensorProto, helper

    read = {name for node in cut.nodes for name in node.input}
    initializers = [t for t in cut.model.graph.initializer if t.name in read]
    weights = {
        t.name: tuple(t.dims)
        for t in initializers
        if t.data_type == TensorProto.FLOAT and math.prod(t.dims) >= WEIGHT_ELEMENTS
    }
    made = {name for node in cut.nodes for name in node.output if name}
    nodes: list[onnx.NodeProto] = []
    for copy in range(copies):
        for number, node in enumerate(cut.nodes):
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            twin.name = f"{node.op_type.lower()}{number}_{copy}"
            for field in (twin.input, twin.output):
                renamed = [f"{n}_{copy}" if n in made or n in weights else n for n in field]
                del field[:]
                field.extend(renamed)
            nodes.append(twin)
        if copy < copies - 1 and copies * 4 * math.prod(cut.output_shape) > UNREAD_BYTES:
            nodes.append(helper.make_node("Shape", [f"{cut.output}_{copy}"], [f"read_{copy}"]))
    repeated = {f"{name}_{copy}": shape for copy in range(copies) for name, shape in weights.items()}
    hollow = [placeholder(np.broadcast_to(np.float32(0), s), n) for n, s in repeated.items()]
    graph = helper.make_graph(
        nodes,
        "hwprune",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in cut.inputs.items()],
        [helper.make_tensor_value_info(f"{cut.output}_{copies - 1}", TensorProto.FLOAT, None)],
        initializer=[*(t for t in initializers if t.name not in weights), *hollow],
    )
    model = helper.make_model(graph, opset_imports=list(cut.model.opset_import), ir_version=IR_VERSION)
    return model, repeated


def _write(
    model: ModelProto,
    path: Path,
    target: Target,
    copies: int,
    weights: dict[str, Shape],
    *,
    optimise: bool,
    about: dict[str, Any],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    content = {
        "format": 1,
        **about,
        "backend": "onnxruntime",
        "pipeline": onnx_pipeline_hash(target),
        "threads": target.threads,
        "copies": copies,
        "optimise": optimise,
        "weights": weights,
    }
    path.with_suffix(".json").write_text(json.dumps(content) + "\n")
