"""How tensors lie in memory, and how weights get there (numpy only).

Activations between kernels are packed ``[N, ceil(C/b), H, W, b]`` with ``b`` the SIMD lanes of the
target; the lanes behind the last channel hold finite garbage that every consumer meets with zero
weights. Two-dimensional tensors and inputs of the network are plain.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwprune.compile.chosen import DIRECT, chosen_tile
from hwprune.compile.shapes import Shape, infer_shapes, integers
from hwprune.compile.tiles import ConvGeometry, Tile, ceil_div, choose_tile, conv_geometry
from hwprune.compile.winograd import WinogradPlan, is_winograd, pack_winograd, winograd_plan
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelOp, KernelSpec
from hwprune.target import Target


def packed_shape(shape: Shape, lanes: int) -> Shape:
    """Physical shape of an activation; shapes that are not four-dimensional stay as they are."""
    if len(shape) != 4:
        return shape
    return (shape[0], ceil_div(shape[1], lanes), shape[2], shape[3], lanes)


def pack_activation(array: np.ndarray, lanes: int) -> np.ndarray:
    """``[N,C,H,W]`` to ``[N,C/b,H,W,b]``, zeros in the tail."""
    if array.ndim != 4:
        return np.ascontiguousarray(array)
    n, c, h, w = array.shape
    blocks = ceil_div(c, lanes)
    full = np.zeros((n, blocks * lanes, h, w), array.dtype)
    full[:, :c] = array
    return np.ascontiguousarray(full.reshape(n, blocks, lanes, h, w).transpose(0, 1, 3, 4, 2))


@dataclass(frozen=True)
class InputLayout:
    """Physical form of one kernel input.

    ``form`` is ``plain``, ``packed``, ``vector`` (per channel, zero-padded to whole blocks),
    ``conv``, ``winograd``, ``depthwise`` or ``linear``; ``detail`` holds what packing those needs.
    """

    form: str
    shape: Shape
    lanes: int = 1
    detail: tuple[object, ...] = field(default=())

    def pack(self, array: np.ndarray) -> np.ndarray:
        """Logical array to physical array."""
        packed = _PACKERS[self.form](array.astype(np.float32, copy=False), self)
        assert packed.shape == self.shape, (self.form, packed.shape, self.shape)
        return np.ascontiguousarray(packed)


def _pack_plain(array: np.ndarray, layout: InputLayout) -> np.ndarray:
    return array


def _pack_packed(array: np.ndarray, layout: InputLayout) -> np.ndarray:
    return pack_activation(array, layout.lanes)


def _pack_vector(array: np.ndarray, layout: InputLayout) -> np.ndarray:
    full = np.zeros(layout.shape, np.float32)
    full[: array.size] = array.reshape(-1)
    return full


def _pack_conv(array: np.ndarray, layout: InputLayout) -> np.ndarray:
    geometry, tile, groups = layout.detail
    assert isinstance(geometry, ConvGeometry) and isinstance(tile, Tile) and isinstance(groups, int)
    out_channels, per_group, kh, kw = array.shape
    lanes = geometry.lanes
    if groups > 1:  # zeros between the groups that were joined, and behind the last one
        inside = geometry.in_blocks * lanes if geometry.groups > 1 else groups * per_group
        joined, outer = inside // per_group, out_channels // groups
        grouped = np.zeros((geometry.groups * joined, outer, per_group, kh, kw), np.float32)
        grouped[:groups] = array.reshape(groups, outer, per_group, kh, kw)
        grouped = grouped.reshape(geometry.groups, joined, outer, per_group, kh, kw)
        dense = np.zeros((geometry.groups, joined, outer, joined, per_group, kh, kw), np.float32)
        for g in range(joined):
            dense[:, g, :, g] = grouped[:, g]
        array = dense.reshape(-1, inside, kh, kw)
    in_lanes = 1 if geometry.plain_input else lanes
    full = np.zeros((tile.blocks * lanes, geometry.in_blocks * in_lanes, kh, kw), np.float32)
    full[: array.shape[0], : array.shape[1]] = array
    t = tile.block_tile
    view = full.reshape(tile.blocks // t, t, lanes, geometry.in_blocks, in_lanes, kh, kw)
    return view.transpose(0, 3, 5, 6, 4, 1, 2).reshape(layout.shape)


def _pack_depthwise(array: np.ndarray, layout: InputLayout) -> np.ndarray:
    c, _, kh, kw = array.shape
    full = np.zeros((layout.shape[0] * layout.lanes, kh, kw), np.float32)
    full[:c] = array[:, 0]
    return full.reshape(-1, layout.lanes, kh, kw).transpose(0, 2, 3, 1)


def _pack_linear(array: np.ndarray, layout: InputLayout) -> np.ndarray:
    flattened = layout.detail[0]
    if flattened is not None:  # the activation stays packed: permute the weights to its order
        assert isinstance(flattened, tuple)
        out, (_, c, h, w) = array.shape[0], flattened
        array = pack_activation(array.reshape(out, c, h, w), layout.lanes).reshape(out, -1)
    out, inner = array.shape
    full = np.zeros((layout.shape[0] * layout.lanes, inner), np.float32)
    full[:out] = array
    return full.reshape(-1, layout.lanes, inner).transpose(0, 2, 1)


def _pack_winograd(array: np.ndarray, layout: InputLayout) -> np.ndarray:
    (plan,) = layout.detail
    assert isinstance(plan, WinogradPlan)
    return pack_winograd(array, plan)


_PACKERS = {
    "plain": _pack_plain,
    "packed": _pack_packed,
    "vector": _pack_vector,
    "conv": _pack_conv,
    "depthwise": _pack_depthwise,
    "linear": _pack_linear,
    "winograd": _pack_winograd,
}


def conv_plan(
    spec: KernelSpec, op: KernelOp, shapes: list[Shape], target: Target, choice: Choice | None = None
) -> tuple[ConvGeometry, Tile]:
    """Geometry and tile of a ``conv2d`` op of a kernel; the tile is the choice's, if there is one."""
    x, w = op.args[0], op.args[1]
    out = shapes[len(spec.inputs) + spec.ops.index(op)]
    plain = x < len(spec.inputs) and spec.inputs[x].role == "input"
    geometry = conv_geometry(op, shapes[x], shapes[w], out, target.simd_lanes, plain)
    if choice is not None and choice.rule == DIRECT:
        return geometry, chosen_tile(geometry, choice)
    return geometry, choose_tile(geometry, target.vector_registers)


def winograd_of(
    spec: KernelSpec, op: KernelOp, shapes: list[Shape], target: Target, choice: Choice | None
) -> tuple[ConvGeometry, WinogradPlan]:
    """Geometry and plan of a ``conv2d`` op that a choice wants computed by Winograd's algorithm."""
    assert choice is not None
    geometry, _ = conv_plan(spec, op, shapes, target)
    return geometry, winograd_plan(geometry, choice)


def flattened_shape(spec: KernelSpec, value: int, shapes: list[Shape]) -> Shape | None:
    """Shape of the packed activation behind ``value`` if that is a ``flatten`` of one."""
    if value < len(spec.inputs):
        return None
    op = spec.ops[value - len(spec.inputs)]
    if op.kind != "flatten" or len(shapes[op.args[0]]) != 4:
        return None
    source = op.args[0]
    plain = source < len(spec.inputs) and spec.inputs[source].role == "input"
    return None if plain else shapes[source]


def _weight_layout(
    spec: KernelSpec,
    index: int,
    op: KernelOp,
    slot: int,
    shapes: list[Shape],
    target: Target,
    choice: Choice | None,
) -> InputLayout:
    lanes, shape = target.simd_lanes, spec.inputs[index].shape
    vector = InputLayout("vector", (ceil_div(shape[0], lanes) * lanes,), lanes)
    if op.kind in ("conv2d", "depthwise_conv2d", "linear", "scale_shift", "layer_norm") and len(shape) == 1:
        return vector
    if op.kind == "conv2d" and slot == 1:
        g, tile = conv_plan(spec, op, shapes, target, choice)
        if is_winograd(choice):
            _, plan = winograd_of(spec, op, shapes, target, choice)
            return InputLayout("winograd", plan.weight_shape, lanes, (plan,))
        lane_axis = () if g.plain_input else (lanes,)
        physical = (
            tile.blocks // tile.block_tile,
            g.in_blocks,
            *g.kernel,
            *lane_axis,
            tile.block_tile * lanes,
        )
        return InputLayout("conv", physical, lanes, (g, tile, integers(op, "groups")[0]))
    if op.kind == "depthwise_conv2d" and slot == 1:
        return InputLayout("depthwise", (ceil_div(shape[0], lanes), *shape[2:], lanes), lanes)
    if op.kind == "linear" and slot == 1:
        flat = flattened_shape(spec, op.args[0], shapes)
        inner = shape[1] if flat is None else ceil_div(flat[1], lanes) * lanes * flat[2] * flat[3]
        return InputLayout("linear", (ceil_div(shape[0], lanes), inner, lanes), lanes, (flat,))
    if len(shape) == 4 and op.kind != "fallback":
        return InputLayout("packed", packed_shape(shape, lanes), lanes)
    return InputLayout("plain", shape)


def input_layouts(spec: KernelSpec, target: Target, choice: Choice | None = None) -> tuple[InputLayout, ...]:
    """Physical form of every input of a kernel; that of weights depends on the choice."""
    shapes = infer_shapes(spec)
    lanes = target.simd_lanes
    layouts: list[InputLayout] = []
    for index, item in enumerate(spec.inputs):
        if item.role == "input":
            layouts.append(InputLayout("plain", item.shape))
            continue
        if item.role == "data":
            form = "packed" if len(item.shape) == 4 else "plain"
            layouts.append(InputLayout(form, packed_shape(item.shape, lanes), lanes))
            continue
        uses = {
            _weight_layout(spec, index, op, op.args.index(index), shapes, target, choice)
            for op in spec.ops
            if index in op.args
        }
        if len(uses) != 1:
            raise UnsupportedOperatorError(
                f"weight {index} of kernel '{spec.label()}' is used in {len(uses)} different ways"
            )
        layouts.append(uses.pop())
    return tuple(layouts)


def output_shape(spec: KernelSpec, target: Target) -> Shape:
    """Physical shape of a kernel's output."""
    logical = infer_shapes(spec)[-1]
    return logical if spec.plain_output else packed_shape(logical, target.simd_lanes)
