"""A kernel's schedule before any rule ran, and what the rules have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from hwprune.compile.emitter import Emitted
from hwprune.compile.tvm_api import PrimFunc, SBlockRV, Schedule, te
from hwprune.target import Target


@dataclass(frozen=True)
class Prepared:
    """A kernel whose point-by-point stages are inlined into ``out``."""

    schedule: Any
    emitted: Emitted
    target: Target
    blocks: dict[str, SBlockRV]
    #: Rewrites of the PrimFunc after scheduling.
    finishers: list[Callable[[PrimFunc], PrimFunc]] = field(default_factory=list)

    @property
    def out(self) -> SBlockRV:
        return self.blocks[self.emitted.final]

    def parallel(self, loops: Sequence[Any]) -> Any:
        """Fuse the loops; in parallel if the target has threads for it."""
        fused = self.schedule.fuse(*loops) if len(loops) > 1 else loops[0]
        if self.target.threads > 1:
            self.schedule.parallel(fused)
        return fused

    def finish_tile(self, block: SBlockRV, outer: int) -> None:
        """Vectorise the lanes and unroll the rest of a stage placed inside ``outer`` loops."""
        s = self.schedule
        reads = [str(read.source.name) for read in s.get(block).reads]
        index = next((i for i, name in enumerate(reads) if name.startswith("acc")), None)
        if self.emitted.costly and index is not None:
            # Unrolled, a long epilogue would be code for every accumulator, and its constants
            # would take the registers of the accumulators: store those first.
            self._unrolled(s.cache_read(block, index, "local"), outer)
            s.vectorize(s.get_loops(block)[-1])
        else:
            self._unrolled(block, outer)

    def _unrolled(self, block: SBlockRV, outer: int) -> None:
        inner = self.schedule.get_loops(block)[outer:]
        if inner:
            self.schedule.vectorize(inner[-1])
        for loop in inner[:-1]:
            self.schedule.unroll(loop)

    def extents(self, block: SBlockRV) -> list[int]:
        """Extents of the loops around a block, outermost first."""
        return [int(self.schedule.get(loop).extent) for loop in self.schedule.get_loops(block)]


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
