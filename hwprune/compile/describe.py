"""Which schedule rule a kernel gets, and with what tiling: shown without building anything."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from hwprune.compile.pipeline import PACKED, require_pipeline
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.target import Target

#: The rule that takes what no other rule wants, and kernels that are left to TVM.
FALLBACK = "fallback"
#: What :func:`describe` calls an operator that cannot be compiled.
UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class Description:
    """How a kernel will be scheduled.

    Attributes
    ----------
    rule
        Name of the schedule rule that takes it (``conv``, ``window``, ...), ``fallback`` where none
        of ours does, ``unsupported`` where it cannot be compiled at all.
    tiling
        For people: what one tile holds and what is unrolled and vectorised, or the reason why not.
    """

    rule: str
    tiling: str

    @property
    def falls_back(self) -> bool:
        """Whether no rule of ours schedules the kernel."""
        return self.rule in (FALLBACK, UNSUPPORTED)


def describe(spec: KernelSpec, target: Target, choice: Choice | None = None) -> Description:
    """Rule and tiling of a kernel, by letting the rules choose as they do in a build.

    Nothing is turned into machine code; this takes milliseconds a kernel. ``choice`` is what a search
    found for it; None is the deterministic default.

    Raises
    ------
    CompileError
        The target's pipeline has no schedule rules.
    """
    if target.backend == "onnxruntime":
        return Description(target.backend, "chosen by ONNX Runtime")
    require_pipeline(target, PACKED)
    if choice is not None and choice.trace:
        return Description(choice.rule, "loops found by MetaSchedule")
    if any(op.kind == FALLBACK for op in spec.ops):
        return Description(FALLBACK, "TVM's own lowering, on plain tensors")
    from hwprune.compile.emit import emit
    from hwprune.compile.prepared import prepare
    from hwprune.compile.schedule import RULES

    try:
        emitted = emit(spec, target, choice)
    except UnsupportedOperatorError as error:
        return Description(UNSUPPORTED, error.message)
    prepared = prepare(emitted, target)
    rule = next(rule for rule in RULES if rule(prepared))
    name = rule.__name__.removesuffix("_rule")
    tile = emitted.tile
    if tile is not None:
        shape = f"{tile.block_tile} x {tile.rows} x {tile.cols} of {target.simd_lanes}"
        physical = tile.blocks * target.simd_lanes * tile.height * tile.width
        tiling = f"{shape} ({_overhang(spec, physical)})"
    elif emitted.winograd is not None:
        plan = emitted.winograd
        shape = f"{plan.block_tile} x {plan.rows} x {plan.cols} of {target.simd_lanes}"
        physical = plan.out_blocks * target.simd_lanes * plan.tile_rows * plan.tile_cols * plan.m**2
        tiling = f"F({plan.m}x{plan.m}) {shape} ({_overhang(spec, physical)})"
    else:
        tiling = _loops(prepared.schedule) or f"vectors of {target.simd_lanes}"
    return Description(name, tiling if choice is None else f"{tiling}, searched")


def _overhang(spec: KernelSpec, computed: int) -> str:
    """How much of what whole tiles compute sticks out of the output: lanes, blocks, rows, columns."""
    from hwprune.compile.shapes import anchor_index, infer_shapes

    anchor = anchor_index(spec)
    assert anchor is not None  # only anchors have tiles
    out = infer_shapes(spec)[len(spec.inputs) + anchor]
    over = computed / prod(out[1:]) - 1
    return f"{over:.0%} overhang" if over > 0 else "no overhang"


def _loops(schedule: Any) -> str:
    """Unrolled and vectorised loops around the reduction, if there is one."""
    try:
        block = schedule.get_sblock("acc_update")
    except Exception:  # no such block: nothing is reduced
        return ""
    kinds = {2: "vectors of", 3: "unrolled"}
    found: list[str] = []
    for loop in schedule.get_loops(block):
        node = schedule.get(loop)
        if int(node.kind) in kinds:
            found.append(f"{kinds[int(node.kind)]} {int(node.extent)}")
    return ", ".join(found)
