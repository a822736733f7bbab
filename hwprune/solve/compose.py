"""Two plans, one after the other, are one plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwprune.errors import PlanError
from hwprune.solve.plan import Plan
from hwprune.solve.plan_group import PlanGroup


def compose(first: Plan, second: Plan) -> Plan:
    """The plan that does to the original what ``second`` does to the model that ``first`` made.

    Pruning by it equals pruning twice, so a model that was pruned again is saved, loaded and
    verified against its original like any other.

    Parameters
    ----------
    first
        Plan of the original model.
    second
        Plan of the model pruned by ``first``; groups that it does not mention stay as they are.

    Returns
    -------
    Plan
        For the original model: its dense latency is that of ``first``, everything else that was
        measured or solved for is that of ``second``. Importance kept is the product of both. Blocks
        that either removes are removed; shares of those of the second are not known.

    Raises
    ------
    PlanError
        The second plan is not one for the model that the first one makes, the two are for
        different targets or resolutions, or the second removes a block whose name may have
        been that of another one in the original.

    Examples
    --------
    >>> once = hwprune.prune(model, x, latency="70%")
    >>> twice = hwprune.prune(once.model, x, latency="70%")
    >>> both = hwprune.apply_plan(model, x, hwprune.compose(once.plan, twice.plan))
    """
    if (first.target, first.unit) != (second.target, second.unit):
        raise PlanError(
            f"the first plan is for target {first.target!r} in {first.unit}, "
            f"the second for {second.target!r} in {second.unit}",
            hint="plan again for one target",
        )
    if first.submodule != second.submodule:
        raise PlanError(
            f"the first plan is for {_part(first)}, the second for {_part(second)}",
            hint="apply them one after the other",
        )
    if second.resolution not in (None, first.resolution) and first.resolution is not None:
        raise PlanError(
            f"the first plan is for images of {_size(first)}, the second for {_size(second)}",
            hint="plan again at one resolution",
        )
    for name in second.removed:
        _require_stable(name, first.removed)
    later = {group.name: group for group in second.groups}
    keep = compose_keep(first.remaining, second.keep, {name: group.size for name, group in later.items()})
    groups = tuple(
        group if group.block is not None else _joined(group, later.get(group.name), keep[group.name])
        for group in first.groups
    )
    unknown = {"latency_share": None, "importance_share": None}
    blocks = [block.model_copy(update=unknown) for block in second.removed_blocks]
    known = {(line.name, line.reason) for line in first.ledger}
    lines = [line for line in second.ledger if (line.name, line.reason) not in known]
    return second.model_copy(
        update={
            "model": first.model,
            "fingerprint": first.fingerprint,
            "dense_ns": first.dense_ns,
            "budget_asked": f"{first.budget_asked}, then {second.budget_asked}",
            "inputs": first.inputs,
            "resolution": second.resolution or first.resolution,
            "include": first.include,
            "exclude": first.exclude,
            "edited": first.edited or second.edited,
            "rechecked": None,
            "removed_blocks": (*first.removed_blocks, *blocks),
            "groups": groups,
            "ledger": (*first.ledger, *lines),
        }
    )


def compose_keep(
    first: Mapping[str, Sequence[int]], second: Mapping[str, Sequence[int]], sizes: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Kept units in the numbering of the original; ``sizes`` are the groups' sizes between the cuts.

    Raises
    ------
    PlanError
        A group of the second is not in the first, or its size is not the width that the first left.
    """
    for name in second:
        left = len(first[name]) if name in first else None
        if left != sizes[name]:
            raise PlanError(
                f"the second plan is not for the model that the first one makes: its group {name!r} has "
                f"{sizes[name]} units, the first leaves {'none of that name' if left is None else left}",
                hint="give the plans in the order in which they were applied",
            )
    return {
        name: tuple(units[u] for u in second[name]) if name in second else tuple(units)
        for name, units in first.items()
    }


def _joined(first: PlanGroup, second: PlanGroup | None, units: Sequence[int]) -> PlanGroup:
    if second is None:
        return first
    if second.channels_per_unit != first.channels_per_unit:
        raise PlanError(
            f"a unit of group {first.name!r} is {first.channels_per_unit} channels in the first plan, "
            f"{second.channels_per_unit} in the second",
            hint="apply them one after the other",
        )
    return PlanGroup.from_units(
        first.name,
        first.size,
        units,
        channels_per_unit=first.channels_per_unit,
        multiple=second.multiple,
        exempt=second.exempt,
        block=second.block,
        importance_kept=first.importance_kept * second.importance_kept,
    )


def _part(plan: Plan) -> str:
    return "the whole model" if plan.submodule is None else f"submodule {plan.submodule!r}"


def _require_stable(name: str, gone: Sequence[str]) -> None:
    """Blocks of one module are numbered: without the first, the second has its name."""
    base = name.partition("#")[0]
    for other in gone:
        if other.partition("#")[0] == base:
            raise PlanError(
                f"the second plan removes block {name!r}, which the original may know by another name: "
                f"the first one removes {other!r} from the same module",
                hint="apply them one after the other",
            )


def _size(plan: Plan) -> str:
    return "those of the inputs" if plan.resolution is None else "x".join(map(str, plan.resolution))
