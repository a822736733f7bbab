"""An operator without a kernel of ours: one ATen call through torch's own ONNX exporter."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwprune.compile.shapes import integers
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelOp
from hwprune.onnx_backend.graph import OPSET, Graph, Shape, Value
from hwprune.onnx_backend.silence import silent_exporter


def emit_fallback(g: Graph, op: KernelOp, args: Sequence[Value], out: Shape) -> str:
    """Write the operator's nodes into ``g``; returns the name of its result.

    Raises
    ------
    UnsupportedOperatorError
        torch cannot express it in ONNX, or it gives another shape than stated.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(_exported(op, [value.shape for value in args]))
    names = {i.name: value.name for i, value in zip(model.graph.input, args, strict=True)}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        names[tensor.name] = g.constant(array, str(array.dtype))
    for node in model.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        del copied.input[:], copied.output[:]
        copied.input.extend(names[name] if name else "" for name in node.input)
        for name in node.output:
            names[name] = g.fresh(node.op_type.lower()) if name else ""
            copied.output.append(names[name])
        copied.name = g.fresh(node.op_type)
        g.nodes.append(copied)
    return names[model.graph.output[0].name]


def _exported(op: KernelOp, shapes: Sequence[Shape]) -> bytes:
    """The operator alone as a serialised model, with inputs in the order of its tensors."""
    import torch

    target = str(op.attribute("target"))
    _, name, overload = target.split(".")
    call = getattr(getattr(torch.ops.aten, name), overload)
    positional, named = json.loads(str(op.attribute("arguments")))
    shape, item = list(integers(op, "shape")), integers(op, "item")[0]

    class Alone(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            def value(given: Any) -> Any:
                if isinstance(given, dict):
                    return tensors[given["tensor"]] if "tensor" in given else shape
                return [value(v) for v in given] if isinstance(given, list) else given

            result = call(*value(positional), **{k: value(v) for k, v in named.items()})
            return result if item < 0 else result[item]

    examples = tuple(torch.ones(s) for s in shapes)
    with torch.no_grad():
        found = tuple(Alone()(*examples).shape)
    if found != tuple(shape):
        raise UnsupportedOperatorError(f"operator {target} gives {found} at these widths, not {tuple(shape)}")
    with tempfile.TemporaryDirectory(prefix="hwprune-") as folder, silent_exporter():
        path = Path(folder) / "operator.onnx"
        try:
            with torch.no_grad():
                torch.onnx.export(
                    Alone(),
                    examples,
                    str(path),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=[f"in{i}" for i in range(len(examples))],
                    do_constant_folding=False,
                )
        except Exception as error:  # the exporter raises whatever it likes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnsupportedOperatorError(
                f"operator {target} has no kernel, and torch cannot write it as ONNX: {reason[:300]}",
                hint="exclude the layers behind it, or use a target of the backend 'tvm'",
            ) from error
        return path.read_bytes()
