"""Which budget or weight belongs to which target of a fleet."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from hwprune.errors import UsageError

#: Budgets by target, or one for all.
Budgets = str | float | Mapping[str, str | float] | None


def budgets_of(names: Sequence[str], latency: Budgets) -> dict[str, str | float | None]:
    """The budget of every target.

    Raises
    ------
    UsageError
        A target has none, or a budget is for a target that is not there.
    """
    if not isinstance(latency, Mapping):
        return dict.fromkeys(names, latency)
    check_names("latency budget", names, latency)
    return {name: latency[name] for name in names}


def check_names(what: str, names: Sequence[str], given: Mapping[str, object]) -> None:
    """Refuse entries for targets that are not there, and targets without an entry.

    Raises
    ------
    UsageError
        Naming the target.
    """
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1) or list(names)
            raise UsageError(
                f"there is a {what} for {name!r}, which is not among the targets", hint=f"use {near[0]!r}"
            )
    for name in names:
        if name not in given:
            raise UsageError(f"target {name} has no {what}", hint="give every target one")
