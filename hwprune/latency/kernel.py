"""Kernels and kernel families: what is built, timed, looked up and shipped.

A *kernel* is one fused loop nest: an anchor (convolution, dense layer, pooling) and the
elementwise operators behind it. ``KernelSpec`` describes it completely, so that the profiler can
build it alone and the compiler can build the same one inside a network. A latency table holds one
row for each; its directory says for which target, device and pipeline.
A *family* is a kernel whose channel counts are left open, as sums of group widths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from hwprune.extent import Extent

AttributeValue = int | float | str | tuple[int, ...]
#: Attributes of a kernel family may depend on group widths.
OpenValue = AttributeValue | Extent | tuple[Extent, ...]

#: Operators that decide the schedule, one per kernel. Shapes are logical (NCHW).
ANCHOR_KINDS: dict[str, str] = {
    "conv2d": "(x, weight[O,I/groups,KH,KW], bias|-1) dilation=(2) groups padding=(t,l,b,r) stride=(2)",
    "depthwise_conv2d": "(x, weight[C,1,KH,KW], bias|-1) dilation=(2) padding=(4) stride=(2)",
    "linear": "(x[N,K], weight[O,K], bias|-1)",
    "max_pool2d": "(x) ceil_mode dilation=(2) kernel=(2) padding=(t,l,b,r) stride=(2)",
    "avg_pool2d": "(x) ceil_mode count_include_pad kernel=(2) padding=(t,l,b,r) stride=(2)",
    "adaptive_avg_pool2d": "(x) output=(2)",
    "mean_hw": "(x[N,C,H,W]) keepdim: mean over H and W, giving [N,C] or [N,C,1,1]",
    "cat": "(x, y, ...) along channels",
    "layer_norm": "(x, weight[C]|-1, bias[C]|-1) eps: over the channels of [N,C,H,W] or [N,C]",
    "softmax": "(x) over the channels of [N,C,H,W] or [N,C]",
    "channel_slice": "(x) start length: channels start .. start+length-1",
    "channel_shuffle": "(x) groups: [groups, C/groups] channels transposed",
    "pixel_shuffle": "(x) factor: [N,C*f*f,H,W] to [N,C,H*f,W*f]",
    "upsample_nearest": "(x) scale=(2)",
    "pad2d": "(x) padding=(t,l,b,r) value",
    "as_map": "(x[N,C]) -> [N,C,1,1]",
    "fallback": "(tensors...) target arguments shape: one ATen operator by TVM's own lowering, plain layout",
}

#: Operators that may stand alone, follow an anchor or, the last two, precede one.
OTHER_KINDS: dict[str, str] = {
    "scale_shift": "(x, scale[C], shift[C]): x*scale + shift per channel",
    "affine": "(x) scale shift: x*scale + shift with numbers",
    "add": "(x, y) same shape, or y (or x) [N,C,1,1]",
    "mul": "(x, y) likewise",
    "sub": "(x, y) likewise",
    "div": "(x, y) likewise",
    "relu": "(x)",
    "clamp": "(x) max min: ReLU6 is clamp 0..6",
    "leaky_relu": "(x) slope",
    "hardswish": "(x)",
    "hardsigmoid": "(x)",
    "silu": "(x)",
    "sigmoid": "(x)",
    "gelu": "(x) approximate=none|tanh",
    "tanh": "(x)",
    "flatten": "(x[N,C,H,W]) -> [N, C*H*W]; fused in front of a linear",
    "spread": "(x) stride=(2): zeros between rows and columns; in front of a transposed convolution",
}

#: Every operator a kernel may hold: arguments and attributes.
OP_KINDS = {**ANCHOR_KINDS, **OTHER_KINDS}
ANCHORS = frozenset(ANCHOR_KINDS)


@dataclass(frozen=True)
class KernelOp:
    """One operator inside a kernel.

    ``args`` are value numbers: 0..len(inputs)-1 are the kernel's inputs, the following ones the
    results of ``ops`` in order; -1 stands for an absent optional argument. ``attributes`` are
    sorted by name. ``OP_KINDS`` lists the kinds, their arguments and attributes.
    """

    kind: str
    args: tuple[int, ...]
    attributes: tuple[tuple[str, AttributeValue], ...] = ()

    def attribute(self, name: str) -> AttributeValue:
        return dict(self.attributes)[name]


@dataclass(frozen=True)
class KernelInput:
    """One input tensor: its logical shape (unpacked, NCHW order) and what it holds.

    ``role`` is ``"data"`` for activations made by another kernel, ``"input"`` for an input of the
    network (always stored plain, as the user gives it) and ``"weight"`` for constants.
    """

    shape: tuple[int, ...]
    role: str
    dtype: str = "float32"


@dataclass(frozen=True)
class KernelSpec:
    """A fused kernel with all shapes known. The last op's value is the only output.

    ``plain_output`` marks a four-dimensional result that leaves the network and so must be
    stored plain NCHW; every other four-dimensional tensor between kernels has whatever packed
    layout the pipeline prefers.
    """

    inputs: tuple[KernelInput, ...]
    ops: tuple[KernelOp, ...]
    plain_output: bool = False

    @property
    def anchor(self) -> str:
        """Kind of the operator that decides the schedule."""
        return next((op.kind for op in self.ops if op.kind in ANCHORS), self.ops[0].kind)

    def canonical(self) -> str:
        """One line of JSON that determines the kernel; equal specs have equal lines."""
        return json.dumps(
            {
                "inputs": [[list(i.shape), i.role, i.dtype] for i in self.inputs],
                "ops": [[op.kind, list(op.args), dict(op.attributes)] for op in self.ops],
                "plain_output": self.plain_output,
            },
            separators=(",", ":"),
            sort_keys=True,
        )

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of :meth:`canonical`."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # Looked up over and over while a plan is refined.
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    @staticmethod
    def parse(canonical: str) -> KernelSpec:
        """Inverse of :meth:`canonical`."""
        data = json.loads(canonical)

        def value(v: object) -> AttributeValue:
            return tuple(v) if isinstance(v, list) else v  # type: ignore[return-value]

        return KernelSpec(
            tuple(KernelInput(tuple(shape), role, dtype) for shape, role, dtype in data["inputs"]),
            tuple(
                KernelOp(kind, tuple(args), tuple(sorted((k, value(v)) for k, v in attrs.items())))
                for kind, args, attrs in data["ops"]
            ),
            data["plain_output"],
        )

    def label(self) -> str:
        """For people: ``conv2d+relu 1x64x56x56 w128x64x3x3 /2``: operators, data, weight, stride."""
        parts = ["+".join(_kind_label(op) for op in self.ops)]
        parts.append(",".join("x".join(map(str, i.shape)) for i in self.inputs if i.role != "weight"))
        weights = [i.shape for i in self.inputs if i.role == "weight"]
        if weights:
            parts.append("w" + "x".join(map(str, weights[0])))
        for op in self.ops:
            stride = dict(op.attributes).get("stride", (1, 1))
            if stride != (1, 1):
                assert isinstance(stride, tuple)
                parts.append("/" + "x".join(map(str, dict.fromkeys(stride))))
        return " ".join(parts)


def _kind_label(op: KernelOp) -> str:
    return f"fallback[{op.attribute('target')}]" if op.kind == "fallback" else op.kind


@dataclass(frozen=True)
class FamilyInput:
    """An input whose dimensions may depend on group widths."""

    shape: tuple[Extent, ...]
    role: str
    dtype: str = "float32"


@dataclass(frozen=True)
class FamilyOp:
    """An operator whose attributes may depend on group widths."""

    kind: str
    args: tuple[int, ...]
    attributes: tuple[tuple[str, OpenValue], ...] = ()

    def at(self, widths: Mapping[str, int]) -> KernelOp:
        """The operator for the given widths."""
        return KernelOp(self.kind, self.args, tuple((k, _fixed(v, widths)) for k, v in self.attributes))

    @property
    def extents(self) -> tuple[Extent, ...]:
        values = (v if isinstance(v, tuple) else (v,) for _, v in self.attributes)
        return tuple(e for value in values for e in value if isinstance(e, Extent))


def _fixed(value: OpenValue, widths: Mapping[str, int]) -> AttributeValue:
    if isinstance(value, Extent):
        return value.at(widths)
    if isinstance(value, tuple):
        return tuple(e.at(widths) if isinstance(e, Extent) else e for e in value)
    return value


@dataclass(frozen=True)
class KernelFamily:
    """A kernel with the group widths left open."""

    name: str
    inputs: tuple[FamilyInput, ...]
    ops: tuple[KernelOp | FamilyOp, ...]
    plain_output: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups whose widths decide the latency, in order of first appearance."""
        sizes = [e for i in self.inputs for e in i.shape]
        sizes += [e for op in self.ops if isinstance(op, FamilyOp) for e in op.extents]
        return tuple(dict.fromkeys(g for e in sizes for g in e.groups))

    def at(self, widths: Mapping[str, int]) -> KernelSpec:
        """The kernel for the given widths."""
        return KernelSpec(
            tuple(KernelInput(tuple(e.at(widths) for e in i.shape), i.role, i.dtype) for i in self.inputs),
            tuple(op.at(widths) if isinstance(op, FamilyOp) else op for op in self.ops),
            self.plain_output,
        )
