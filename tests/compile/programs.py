"""Helpers: small programs by hand, and a float64 torch interpreter of kernel ops to check against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from hwprune.compile.shapes import infer_shapes
from hwprune.latency.kernel import AttributeValue, KernelInput, KernelOp, KernelSpec
from hwprune.latency.program import Program, Source, Step

RNG = np.random.default_rng(7)


def op(kind: str, *args: int, **attributes: AttributeValue) -> KernelOp:
    return KernelOp(kind, args, tuple(sorted(attributes.items())))


def data(*shape: int) -> KernelInput:
    return KernelInput(shape, "data")


def net_input(*shape: int) -> KernelInput:
    return KernelInput(shape, "input")


def weight(*shape: int) -> KernelInput:
    return KernelInput(shape, "weight")


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def evaluate(spec: KernelSpec, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
    """Result of a kernel, op by op, in the dtype of the arguments."""
    values = list(arrays)
    for o in spec.ops:
        a = dict(o.attributes)
        x = [values[i] if i >= 0 else None for i in o.args]
        values.append(_evaluate_op(o.kind, a, x))
    return values[-1]


def _pad(x, a, fill=0.0):
    t, left, b, r = a["padding"]
    return F.pad(x, (left, r, t, b), value=fill)


def _evaluate_op(kind, a, x):
    if kind in ("conv2d", "depthwise_conv2d"):
        groups = a.get("groups", x[0].shape[1])
        return F.conv2d(_pad(x[0], a), x[1], x[2], a["stride"], 0, a["dilation"], groups)
    if kind == "linear":
        return F.linear(x[0], x[1], x[2])
    if kind == "max_pool2d":
        t, left, b, r = a["padding"]
        assert (t, left) == (b, r)
        return F.max_pool2d(x[0], a["kernel"], a["stride"], (t, left), a["dilation"], bool(a["ceil_mode"]))
    if kind == "avg_pool2d":
        t, left, b, r = a["padding"]
        return F.avg_pool2d(
            x[0], a["kernel"], a["stride"], (t, left), bool(a["ceil_mode"]), bool(a["count_include_pad"])
        )
    if kind == "adaptive_avg_pool2d":
        return F.adaptive_avg_pool2d(x[0], a["output"])
    if kind == "mean_hw":
        return x[0].mean((2, 3), keepdim=bool(a["keepdim"]))
    if kind == "cat":
        return torch.cat(x, 1)
    if kind == "scale_shift":
        shape = (1, -1) + (1,) * (x[0].ndim - 2)
        return x[0] * x[1].reshape(shape) + x[2].reshape(shape)
    simple = {
        "add": lambda: x[0] + x[1],
        "mul": lambda: x[0] * x[1],
        "sub": lambda: x[0] - x[1],
        "relu": lambda: F.relu(x[0]),
        "clamp": lambda: x[0].clamp(a["min"], a["max"]),
        "leaky_relu": lambda: F.leaky_relu(x[0], a["slope"]),
        "hardswish": lambda: F.hardswish(x[0]),
        "hardsigmoid": lambda: F.hardsigmoid(x[0]),
        "silu": lambda: F.silu(x[0]),
        "sigmoid": lambda: torch.sigmoid(x[0]),
        "gelu": lambda: F.gelu(x[0], approximate=a.get("approximate", "none")),
        "tanh": lambda: torch.tanh(x[0]),
        "flatten": lambda: x[0].flatten(1),
    }
    return simple[kind]()


def single_kernel(spec: KernelSpec) -> Program:
    """A program of one kernel under test; its ``data`` inputs become inputs of the network."""
    inputs: list[tuple[int, ...]] = []
    weights: list[np.ndarray] = []
    sources: list[Source] = []
    for item in spec.inputs:
        if item.role == "weight":
            sources.append(Source("weight", len(weights)))
            weights.append(normal(*item.shape))
        else:
            sources.append(Source("input", len(inputs)))
            inputs.append(item.shape)
    step = Step("kernel", spec, tuple(sources))
    return Program(tuple(inputs), (step,), (Source("step", 0),), tuple(weights))


def several_kernels(specs: Sequence[KernelSpec]) -> Program:
    """Many independent kernels as one program (one compilation), one output each."""
    inputs: list[tuple[int, ...]] = []
    weights: list[np.ndarray] = []
    steps: list[Step] = []
    for number, spec in enumerate(specs):
        part = single_kernel(spec)
        sources = tuple(
            Source(s.kind, s.index + (len(weights) if s.kind == "weight" else len(inputs)))
            for s in part.steps[0].sources
        )
        steps.append(Step(f"kernel{number}", spec, sources))
        inputs.extend(part.input_shapes)
        weights.extend(part.weights)
    outputs = tuple(Source("step", i) for i in range(len(specs)))
    return Program(tuple(inputs), tuple(steps), outputs, tuple(weights))


def reference(program: Program, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of a program in float64."""
    given = [torch.from_numpy(np.asarray(x, np.float64)) for x in inputs]
    weights = [torch.from_numpy(np.asarray(w, np.float64)) for w in program.weights]
    results: list[torch.Tensor] = []
    pick = {"input": given, "weight": weights, "step": results}
    for step in program.steps:
        result = evaluate(step.spec, [pick[s.kind][s.index] for s in step.sources])
        assert tuple(result.shape) == infer_shapes(step.spec)[-1]
        results.append(result)
    return [pick[o.kind][o.index].numpy() for o in program.outputs]


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape, (got.shape, expected.shape)
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-12))
