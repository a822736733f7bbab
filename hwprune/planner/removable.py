"""Which residual blocks a plan may leave out, and which kernels go with each.

The kernels of the whole network are compared with those of the network without the block. Where
some go and nothing else changes, the latency of any set of such blocks is what is left of a sum; all
other blocks stay, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwprune.capture.captured import Captured
from hwprune.dependency.blocks import Block, find_blocks
from hwprune.dependency.groups import Dependencies, Refusal
from hwprune.latency.fused import FusedGraph
from hwprune.latency.fusion import fuse
from hwprune.latency.kernel import KernelFamily
from hwprune.planner.network import Removable
from hwprune.surgery.blocks import bypassed


@dataclass(frozen=True)
class RemovableBlocks:
    """Blocks that may be left out, and those that may not.

    ``blocks`` are those of ``removable``, in the same order, as the dependency analysis describes them.
    """

    removable: tuple[Removable, ...]
    blocks: tuple[Block, ...]
    declined: tuple[Refusal, ...]


def removable_blocks(captured: Captured, deps: Dependencies, fused: FusedGraph) -> RemovableBlocks:
    """Compare the network with and without each of its residual blocks.

    Parameters
    ----------
    captured, deps, fused
        The whole network; it is only read.
    """
    found = find_blocks(captured, deps)
    whole = _by_result(fused, deps)
    names = {result: family.name for result, family in whole.items()}
    declined: list[Refusal] = []
    kept: list[tuple[Block, frozenset[str]]] = []
    for block in found:
        inner = [other.name for other, _ in kept if set(other.nodes) < set(block.nodes)]
        gone = frozenset[str]()
        reason = block.reason
        if reason is None and inner:
            reason = f"it holds blocks that can be removed one by one ({', '.join(inner[:3])})"
        if reason is None:
            left = _left(captured, deps, [block])
            gone = frozenset(whole.keys() - left.keys())
            reason = _change(whole, left) or _reaches_out(block, whole, gone)
        if reason is None and not gone:
            reason = "no kernel goes with it"
        if reason is None:
            kept.append((block, gone))
        else:
            declined.append(Refusal(block.name, 0, reason))
    kept, others = _together(captured, deps, whole, kept)
    return RemovableBlocks(
        tuple(Removable(b.name, b.groups, frozenset(names[r] for r in gone)) for b, gone in kept),
        tuple(block for block, _ in kept),
        (*declined, *others),
    )


Kept = list[tuple[Block, frozenset[str]]]


def _by_result(fused: FusedGraph, deps: Dependencies) -> dict[str, KernelFamily]:
    """Kernel families by the name of the graph node that each computes."""
    families = fused.families(deps.extents)
    return {step.node.name: family for step, family in zip(fused.steps, families, strict=True)}


def _left(captured: Captured, deps: Dependencies, blocks: Sequence[Block]) -> dict[str, KernelFamily]:
    return _by_result(fuse(bypassed(captured, blocks)), deps)


def _change(whole: Mapping[str, KernelFamily], left: Mapping[str, KernelFamily]) -> str | None:
    """What is different besides kernels that went, if anything is."""
    for result, family in left.items():
        if result not in whole or not _same(family, whole[result]):
            label = family.at(dict.fromkeys(family.groups, 1)).label().split(" ", 1)[0]
            return f"without it another kernel changes: {family.name} ({label})"
    return None


def _same(one: KernelFamily, other: KernelFamily) -> bool:
    return (one.inputs, one.ops, one.plain_output) == (other.inputs, other.ops, other.plain_output)


def _reaches_out(block: Block, whole: Mapping[str, KernelFamily], gone: frozenset[str]) -> str | None:
    """Why its groups do not go with it, if a kernel that stays reads one."""
    for result, family in whole.items():
        shared = set(family.groups) & set(block.groups)
        if result not in gone and shared:
            return f"kernel {family.name}, which stays, depends on its group {min(shared)}"
    return None


def _together(
    captured: Captured, deps: Dependencies, whole: Mapping[str, KernelFamily], kept: Kept
) -> tuple[Kept, list[Refusal]]:
    """Blocks whose removal adds up, and those that change more in company than alone."""
    if _adds_up(captured, deps, whole, kept):
        return kept, []
    agreeing: Kept = []
    declined: list[Refusal] = []
    for block in kept:
        if _adds_up(captured, deps, whole, [*agreeing, block]):
            agreeing.append(block)
        else:
            reason = "together with other blocks its removal changes more kernels than alone"
            declined.append(Refusal(block[0].name, 0, reason))
    return agreeing, declined


def _adds_up(captured: Captured, deps: Dependencies, whole: Mapping[str, KernelFamily], kept: Kept) -> bool:
    left = _left(captured, deps, [block for block, _ in kept])
    gone = {result for _, results in kept for result in results}
    return _change(whole, left) is None and left.keys() == whole.keys() - gone
