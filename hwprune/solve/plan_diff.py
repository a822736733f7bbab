"""How two plans differ: first in what they keep, then in everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from hwprune.solve.plan import Plan
from hwprune.solve.plan_group import PlanGroup
from hwprune.solve.plan_words import amount, block_words, fleet_words, limit_words
from hwprune.solve.ranges import format_ranges

#: Characters of a list of units in a line of words; the numbers beside it are complete.
_LONG = 40
#: Nobody wants to know that these differ; a verdict is about the dense model, whose latency is compared.
_INCIDENTAL = ("solve_seconds", "verdict")
#: Compared as what is kept, not field by field.
_CHOICE = ("groups", "removed_blocks", "resolution")
#: Lists that are compared entry by entry, by name.
_LISTS = ("limits", "fleet", "ledger")
#: What groups say beside what is kept of them.
_GROUP_FIGURES = ("importance_kept", "channels_per_unit", "multiple", "exempt", "allowed", "floor")


@dataclass(frozen=True)
class GroupDifference:
    """Units (as ranges) of a group that only one of two plans keeps; ``words`` says it for people."""

    group: str
    only_first: str
    only_second: str
    words: str


@dataclass(frozen=True)
class PlanDiff:
    """Differences of two plans, in words; ``groups`` are those of what is kept, in numbers.

    ``choice`` is about channels, blocks and resolution, ``figures`` about everything else: budgets,
    predictions, provenance, limits.
    """

    choice: tuple[str, ...]
    figures: tuple[str, ...]
    groups: tuple[GroupDifference, ...]

    @property
    def same_choice(self) -> bool:
        """Whether both make the same model."""
        return not self.choice

    @property
    def same(self) -> bool:
        """Whether they say the same, but for how long solving took."""
        return not self.choice and not self.figures

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "same": self.same,
            "same_choice": self.same_choice,
            "choice": list(self.choice),
            "figures": list(self.figures),
            "groups": [vars(group) for group in self.groups],
        }


def diff_plans(first: Plan, second: Plan) -> PlanDiff:
    """Compare two plans, of one model or of two."""
    groups = tuple(_groups(first, second))
    choice: list[str] = []
    if first.resolution != second.resolution:
        choice.append(f"resolution: {_size(first)}, then {_size(second)}")
    choice += _removed(first, second)
    choice += [group.words for group in groups]
    fields = [f for f in Plan.model_fields if f not in (*_INCIDENTAL, *_CHOICE, *_LISTS)]
    figures = [
        f"{field.removesuffix('_ns').replace('_', ' ')}: {_change(field, first, second)}"
        for field in fields
        if getattr(first, field) != getattr(second, field)
    ]
    figures += _named("limit on", *({x.name: limit_words(x) for x in p.limits} for p in (first, second)))
    figures += _named("target", *({x.target: fleet_words(x) for x in p.fleet} for p in (first, second)))
    figures += _named("ledger:", *(_ledger(p) for p in (first, second)))
    figures += _group_figures(first, second)
    return PlanDiff(tuple(choice), tuple(figures), groups)


def _groups(first: Plan, second: Plan) -> Iterable[GroupDifference]:
    theirs = {g.name: g for g in second.groups}
    for one in first.groups:
        other = theirs.pop(one.name, None)
        if other is None:
            yield GroupDifference(one.name, one.kept, "", f"group {one.name}: only in the first plan")
        elif (one.size, one.kept_units) != (other.size, other.kept_units):
            mine, new = set(one.kept_units), set(other.kept_units)
            lost, won = format_ranges(mine - new), format_ranges(new - mine)
            yield GroupDifference(one.name, lost, won, f"group {one.name}: {_words(one, other)}")
    for name, other in theirs.items():
        yield GroupDifference(name, "", other.kept, f"group {name}: only in the second plan")


def _words(one: PlanGroup, other: PlanGroup) -> str:
    if one.size != other.size:
        return f"it has {one.size} units in the first plan, {other.size} in the second"
    if other.block is not None:
        return f"{one.width} of {one.size} units, then none: it goes with block {other.block}"
    if one.block is not None:
        return f"it goes with block {one.block}, then {other.width} of {one.size} units"
    gone, new = set(one.kept_units) - set(other.kept_units), set(other.kept_units) - set(one.kept_units)
    changes = [f"without {_some(gone)}"] * bool(gone) + [f"with {_some(new)}"] * bool(new)
    widths = f"{one.width} of {one.size} units, then {other.width}"
    if one.width == other.width:
        widths = f"{one.width} of {one.size} units in both, but others"
    return f"{widths}: {', '.join(changes)}"


def _some(units: Set[int]) -> str:
    """Units as ranges, the first of many only."""
    text = format_ranges(units)
    if len(text) <= _LONG:
        return text
    return f"{text[:_LONG].rpartition(',')[0]} and others, {len(units)} in all"


def _removed(first: Plan, second: Plan) -> list[str]:
    lines = [
        f"block {name} goes only in the first plan" for name in first.removed if name not in second.removed
    ]
    return lines + [
        f"block {name} goes only in the second plan" for name in second.removed if name not in first.removed
    ]


def _change(field: str, first: Plan, second: Plan) -> str:
    one, other = getattr(first, field), getattr(second, field)
    numbers = isinstance(one, float) and isinstance(other, float)
    relative = f" ({other / one - 1:+.2%})" if numbers and one > 0 else ""
    if field.endswith("_ns"):
        one, other = (None if v is None else amount(v, p.unit) for v, p in ((one, first), (other, second)))
    return f"{_say(one)}, then {_say(other)}{relative}"


def _say(value: object) -> str:
    if value is None or value == ():
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _named(what: str, mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    lines = [f"{what} {name}: only in the first plan" for name in mine if name not in theirs]
    lines += [f"{what} {name}: only in the second plan" for name in theirs if name not in mine]
    return lines + [
        f"{what} {name}: {mine[name]}, then {theirs[name]}"
        for name in mine
        if name in theirs and mine[name] != theirs[name]
    ]


def _group_figures(first: Plan, second: Plan) -> list[str]:
    """Fields of groups beside what is kept, and shares of blocks that go in both."""
    theirs = {g.name: g for g in second.groups}
    lines = [
        f"group {one.name}: {field.replace('_', ' ')} {_say(getattr(one, field))}, "
        f"then {_say(getattr(theirs[one.name], field))}"
        for one in first.groups
        if one.name in theirs
        for field in _GROUP_FIGURES
        if getattr(one, field) != getattr(theirs[one.name], field)
    ]
    blocks = {b.name: b for b in second.removed_blocks}
    return lines + [
        f"block {block_words(one)}, then {block_words(blocks[one.name])}"
        for one in first.removed_blocks
        if one.name in blocks and one != blocks[one.name]
    ]


def _ledger(plan: Plan) -> dict[str, str]:
    return {f"{line.name}, {line.reason}": f"{line.channels} channels" for line in plan.ledger}


def _size(plan: Plan) -> str:
    return "as given" if plan.resolution is None else "x".join(map(str, plan.resolution))
