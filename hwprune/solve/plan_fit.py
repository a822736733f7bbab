"""Whether a plan is one for a model: its groups, its parameters, its blocks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwprune.errors import PlanError
from hwprune.solve.plan_group import PlanGroup

if TYPE_CHECKING:
    from hwprune.dependency.blocks import Block


#: A message names so many.
_NAMED = 4


@dataclass(frozen=True)
class Misfits:
    """What does not fit: ``other_model`` shows another model, ``contradictions`` blocks at odds with it."""

    other_model: tuple[str, ...]
    contradictions: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.other_model or self.contradictions)

    def refuse(self, model: str) -> None:
        """Raise ``PlanError`` if anything does not fit a plan that is for ``model``."""
        lines = self.other_model or self.contradictions
        more = f"; and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        what = f"{'; '.join(lines[:_NAMED])}{more}"
        if self.other_model:
            raise PlanError(
                f"this plan was made for another model ('{model}'): {what}",
                hint="load the model the plan was made for, with the same include and exclude patterns, "
                "or make a new plan for this one",
            )
        if self.contradictions:
            raise PlanError(
                f"this plan does not fit the blocks of '{model}': {what}",
                hint="correct removed_blocks and the groups that name them, or plan again",
            )


def misfits(
    groups: Sequence[PlanGroup],
    removed: Sequence[str],
    planned_fingerprint: str,
    sizes: Mapping[str, int],
    fingerprint: str,
    blocks: Sequence[Block] | None,
) -> Misfits:
    """Compare a plan with an analysed model.

    Parameters
    ----------
    groups, removed, planned_fingerprint
        Of the plan: its groups, the names of the blocks that go, the model that it is for.
    sizes
        Dense units per group of the model.
    fingerprint
        Of the model.
    blocks
        Its residual blocks; None: they are not looked at.
    """
    planned = {g.name: g.size for g in groups}
    wrong = [
        f"group '{name}' has {sizes[name]} units, the plan says {size}"
        for name, size in planned.items()
        if name in sizes and sizes[name] != size
    ]
    wrong += [f"the model has no group '{name}'{_near(name, sizes)}" for name in planned if name not in sizes]
    wrong += [f"the plan does not mention group '{name}'" for name in sizes if name not in planned]
    if not wrong and fingerprint != planned_fingerprint:
        digests = f"fingerprint {fingerprint[:12]}, the plan says {planned_fingerprint[:12]}"
        wrong = [f"names or shapes of its parameters differ ({digests})"]
    return Misfits(tuple(wrong), tuple(_blocks(groups, removed, blocks)) if blocks is not None else ())


def other_size(resolution: tuple[int, int] | None, shapes: Sequence[Sequence[int]]) -> str | None:
    """Why inputs of these shapes are not those of a plan's resolution, None if they may be.

    Images are tensors of four dimensions, of which the last two are height and width.
    """
    images = [tuple(shape[-2:]) for shape in shapes if len(shape) == 4]
    if resolution is None or not images or resolution in images:
        return None
    given = ", ".join("x".join(map(str, shape)) for shape in shapes)
    return f"the plan is for images of {resolution[0]}x{resolution[1]}, the inputs are {given}"


def _blocks(groups: Sequence[PlanGroup], removed: Sequence[str], blocks: Sequence[Block]) -> list[str]:
    known = {block.name: block for block in blocks}
    wrong: list[str] = []
    going: dict[str, str] = {}
    for name in removed:
        block = known.get(name)
        if block is None:
            wrong.append(f"it has no block '{name}'{_near(name, known)}")
        elif block.reason is not None:
            wrong.append(f"block '{name}' cannot go: {block.reason}")
        else:
            going.update(dict.fromkeys(block.groups, name))
    for group in groups:
        if group.block is None and group.name in going:
            wrong.append(
                f"group '{group.name}' goes with block '{going[group.name]}', but keeps {group.width} units"
            )
        elif group.block in known and group.name not in known[group.block].groups:
            wrong.append(f"group '{group.name}' does not lie in block '{group.block}'")
    return wrong


def _near(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    return f" (nearest: {', '.join(near)})" if near else ""
