"""Schedule rules: the first rule that does not answer None schedules the kernel.

Every rule gets the same prepared schedule (point-by-point stages inlined) and leaves loops that
LLVM turns into straight vector code. Parallel loops exist only if the target has several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from hwprune.compile.emit import Emitted
from hwprune.compile.tvm_api import PrimFunc, SBlockRV, Schedule, te
from hwprune.target import Target


@dataclass(frozen=True)
class Prepared:
    """A kernel whose point-by-point stages are inlined into ``out``."""

    schedule: Schedule
    emitted: Emitted
    target: Target
    blocks: dict[str, SBlockRV]

    @property
    def out(self) -> SBlockRV:
        return self.blocks[self.emitted.final]

    def parallel(self, loops: Sequence[Any]) -> Any:
        """Fuse the loops; in parallel if the target has threads for it."""
        fused = self.schedule.fuse(*loops) if len(loops) > 1 else loops[0]
        if self.target.threads > 1:
            self.schedule.parallel(fused)
        return fused

    def extents(self, block: SBlockRV) -> list[int]:
        """Extents of the loops around a block, outermost first."""
        return [int(self.schedule.get(loop).extent) for loop in self.schedule.get_loops(block)]


Rule = Callable[[Prepared], bool]


def prepare(emitted: Emitted, target: Target) -> Prepared:
    """PrimFunc and schedule of emitted stages, with everything that can be inlined inlined."""
    function = te.create_prim_func(list(emitted.parameters))
    schedule = Schedule(function, debug_mask=0)
    root = schedule.get_sblock("root")
    blocks: dict[str, SBlockRV] = {}
    for block in schedule.get_child_blocks(root):
        name = str(schedule.get(block).name_hint)
        if name.startswith("e") and name != emitted.final and name not in emitted.kept:
            schedule.compute_inline(block)
        else:
            blocks[name] = block
    return Prepared(schedule, emitted, target, blocks)


def pointwise(p: Prepared, block: SBlockRV) -> None:
    """A stage that computes each element on its own: parallel outside, vectors inside."""
    s = p.schedule
    loops, extents = s.get_loops(block), p.extents(block)
    lanes = p.target.simd_lanes
    inner = loops[-1]
    if extents[-1] == lanes:
        s.vectorize(inner)
        outer = loops[:-1]
        if len(outer) > 3 and extents[-2] > 1 and extents[-3] * extents[-2] > 1:
            # One long inner loop; LLVM unrolls it.
            s.fuse(*outer[-2:])
            outer = outer[:-2]
    elif extents[-1] % lanes == 0:
        _, vector = s.split(inner, [None, lanes])
        s.vectorize(vector)
        outer = loops[:-1]
    else:
        outer = loops[:-1]
    if outer and prod(extents) >= 4096:
        p.parallel(outer)


def elementwise_rule(p: Prepared) -> bool:
    """No reduction at all."""
    return p.emitted.family == "elementwise"


def fallback_rule(p: Prepared) -> bool:
    """Any reduction: vectors over the last axis, accumulated in place."""
    s, acc = p.schedule, p.blocks["acc"]
    loops = s.get_loops(acc)
    rank = len(s.get(acc).writes[0].region)
    spatial, reduction = loops[:rank], loops[rank:]
    s.reorder(*spatial[:-1], *reduction, spatial[-1])
    s.vectorize(spatial[-1])
    first = p.parallel(spatial[:-1])
    s.decompose_reduction(acc, s.get_loops(acc)[1])
    del first
    return True


def rules() -> list[Rule]:
    """All rules, in the order in which they are asked."""
    from hwprune.compile.schedule_conv import conv_rule
    from hwprune.compile.schedule_reduce import linear_rule, reduce_rule
    from hwprune.compile.schedule_window import window_rule

    return [conv_rule, window_rule, reduce_rule, linear_rule, elementwise_rule, fallback_rule]


def schedule_kernel(emitted: Emitted, target: Target) -> PrimFunc:
    """Scheduled PrimFunc of emitted stages."""
    p = prepare(emitted, target)
    done: set[str] = set()
    for rule in rules():
        if rule(p):
            break
    # Rules that place a stage inside another one take it out of ``blocks``.
    done.add("acc")
    for name, block in p.blocks.items():
        if name not in done:
            pointwise(p, block)
    return p.schedule.mod["main"]
