"""What a user wants to know of a method before choosing it: for lists, tables and the documentation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hwprune.importance.registry import Criterion, available, find

#: What the words of :data:`~hwprune.importance.registry.Origin` mean in a table.
ORIGINS: Mapping[str, str] = {
    "authors": "the authors' method",
    "adapted": "the authors' method in a form of ours",
    "abstract": "our reading of the abstract",
    "none": "reference, no paper",
}


@dataclass(frozen=True)
class Description:
    """One method of a paper, as it is here.

    Attributes
    ----------
    name
        Under which it is asked for.
    summary, details
        First paragraph of its documentation, and those that follow before its parameters.
    paper, formula, data_need, comparability, origin, cost
        As in :class:`~hwprune.importance.registry.Criterion`. ``comparability`` is empty for
        what gives no scores.
    parameters
        Its forms and variants: defaults by parameter name.
    """

    name: str
    summary: str
    details: str
    paper: str
    formula: str
    data_need: str
    comparability: str
    origin: str
    cost: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def describe(criterion: str | type[Criterion]) -> Description:
    """Describe a criterion by what its class says.

    Raises
    ------
    UsageError
        No criterion has this name.
    """
    found = find(criterion) if isinstance(criterion, str) else criterion
    # Of the class itself: the documentation of a base class is about something else.
    summary, details = _paragraphs(found.__dict__.get("__doc__") or "")
    parameters = {
        name: None if each.default is inspect.Parameter.empty else each.default
        for name, each in inspect.signature(found).parameters.items()
        if name not in ("args", "kwargs")
    }
    return Description(
        name=found.name,
        summary=summary,
        details=details,
        paper=found.paper,
        formula=found.formula,
        data_need=found.data_need,
        comparability=found.comparability,
        origin=found.origin,
        cost=found.cost,
        parameters=parameters,
    )


def _paragraphs(text: str) -> tuple[str, str]:
    """The first paragraph, and the rest up to the first section (a heading that is underlined)."""
    prose: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        if len(lines) > 1 and set(lines[1].strip()) == {"-"}:
            break
        prose.append(" ".join(paragraph.split()))
    return (prose[0] if prose else ""), "\n\n".join(prose[1:])


def descriptions() -> tuple[Description, ...]:
    """Descriptions of all registered criteria, sorted by name."""
    return tuple(describe(name) for name in available())
