"""The list of importance criteria."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwprune.cli.common import emit, print_table

if TYPE_CHECKING:
    from hwprune.importance.description import Description


def show_criteria(as_json: bool) -> None:
    """All registered criteria, with what they need and where they come from."""
    from hwprune.importance import descriptions

    found = descriptions()
    header = ("criterion", "data", "comparable", "whose", "score of a unit", "parameters", "paper")
    emit(
        {"criteria": [each.as_dict() for each in found]},
        as_json,
        lambda: print_table(f"{len(found)} criteria", header, [_row(each) for each in found]),
    )


def _row(each: Description) -> tuple[str, ...]:
    parameters = ", ".join(f"{name}={value}" for name, value in each.parameters.items())
    comparable = each.comparability.replace("_", " ")
    return (each.name, each.data_need, comparable, each.origin, each.formula, parameters, each.paper)
