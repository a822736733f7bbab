"""Stages: removable blocks that follow each other on one stream of activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwprune.capture.captured import Captured
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies
from hwprune.extent import Extent


@dataclass(frozen=True)
class Stage:
    """Names of removable blocks in their order; of a stage the last ones go first."""

    name: str
    blocks: tuple[str, ...]


def find_stages(captured: Captured, deps: Dependencies, blocks: Sequence[Block]) -> tuple[Stage, ...]:
    """Removable blocks whose shortcuts carry the same channels at the same size, in a stage each.

    Blocks with a projection cannot be removed and belong to no stage.

    Parameters
    ----------
    captured, deps
        The model and its groups.
    blocks
        Blocks that may go, from :func:`hwprune.dependency.blocks.find_blocks`.
    """
    shapes = {n.name: tuple(n.meta["val"].shape) for n in captured.graph.graph.nodes if _is_tensor(n)}
    found: dict[tuple[tuple[int, ...], tuple[Extent, ...]], list[str]] = {}
    for block in blocks:
        if block.reason is None:
            key = (shapes[block.shortcut], tuple(deps.extents.get(block.shortcut, ())))
            found.setdefault(key, []).append(block.name)
    return tuple(Stage(f"{names[0]}..{names[-1]}", tuple(names)) for names in found.values())


def _is_tensor(node: object) -> bool:
    meta: dict[str, object] = getattr(node, "meta", {})
    return hasattr(meta.get("val"), "shape")
