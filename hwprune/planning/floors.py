"""Floors that a criterion gives: lowered until a budget can be kept, or an error that names the groups."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

from hwprune.errors import BudgetError, PlanError
from hwprune.planner.goal import Goal
from hwprune.planner.network import Column
from hwprune.planner.outcome import Begun
from hwprune.planner.pareto import least_of
from hwprune.planning.prepared import Prepared
from hwprune.solve.budget import parse_budget

_log = logging.getLogger(__name__)
#: So many groups are named in a message.
_NAMED = 6


def both(least: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The greater of two floors of every group."""
    return {name: max(least.get(name, 0), other.get(name, 0)) for name in {**least, **other}}


def with_fitting_floors(prepared: Prepared, budget: str | float | None, begun: Begun) -> Prepared:
    """The prepared model with the strictest floors of its criterion that leave a plan within the budget.

    Where the criterion gives none, or the first ones fit, nothing changes. The loop's limits are set
    accordingly. What fits is judged by the predictions that planning begins with; a plan that is
    timed later may still be out of reach by a little, and is then refused as any other.

    Raises
    ------
    BudgetError
        Not with the lowest of them: the message names the groups that they hold widest.
    PlanError
        The limits on layers contradict even the lowest.
    """
    floors = prepared.floors
    if floors is None:
        return prepared
    loop = prepared.first.loop
    at_most = (
        math.inf
        if budget is None
        else parse_budget(budget, begun.dense.median, unit=prepared.first.bench.target.unit)
    )
    least = math.inf
    conflict: PlanError | None = None

    def fits(widths: Mapping[str, int]) -> bool:
        nonlocal least, conflict
        hold_at(prepared, both(prepared.harm, widths))
        for column in loop.columns:
            try:
                problem = loop.problem(begun.table, begun.residual, at_most, column=column)
                least = min(least, least_of(problem))
            except BudgetError as error:
                _log.debug("floors %s: %s", dict(widths), error.message)
            except PlanError as error:
                conflict = error
        return least <= at_most

    try:
        found = floors.fitting(fits)
    except BudgetError as error:
        lowest = floors.floors[-1].widths
        reached = "" if math.isinf(least) else f" (the least with them is {_shown(least, prepared)})"
        if not fits({}):
            # Nothing fits without them either, which is said as for any other plan.
            return replace(prepared, goal=replace(prepared.goal, least=prepared.harm))
        if conflict is not None and not reached:
            raise conflict from error
        asked = "the other limits" if budget is None else f"a budget of {budget}"
        raise BudgetError(
            f"the floors of {prepared.criterion} leave no plan for {asked}{reached}; "
            f"they {held(prepared, lowest)}",
            hint="ask for more, or for lower floors (floors=0.8; floors=true lowers them by itself)",
        ) from error
    if found is not floors.floors[0]:
        _log.warning(
            "%s: floors are lowered from %g %% to %g %% of the energy, with which the budget can be kept",
            prepared.criterion,
            100 * floors.floors[0].share,
            100 * found.share,
        )
    _log.info("%s: the least latency with its floors is %s", prepared.criterion, _shown(least, prepared))
    return replace(prepared, goal=replace(prepared.goal, least=both(prepared.harm, found.widths)))


def held(prepared: Prepared, least: Mapping[str, int]) -> str:
    """Says which groups floors hold above the least width on offer, those that they hold widest first."""
    bench = prepared.first.bench
    sizes = prepared.subject.deps.dense_widths
    narrowest = {name: widths[0] for name, widths in bench.model.domains.items()}
    bound = [name for name, width in least.items() if width > narrowest.get(name, 0)]
    bound.sort(key=lambda name: -least[name] / sizes[name])
    if not bound:
        return "hold no group above the least width on offer"
    named = ", ".join(f"{name} (at least {least[name]} of {sizes[name]})" for name in bound[:_NAMED])
    more = f" and {len(bound) - _NAMED} more" if len(bound) > _NAMED else ""
    return f"hold {named}{more}"


def hold_at(prepared: Prepared, least: Mapping[str, int]) -> None:
    """Set the floors of the loop, and of its resolutions, to these widths."""
    loop = prepared.first.loop
    loop.shape = replace(prepared.goal, least=least)
    loop.columns = tuple(_limited(column, least) for column in loop.columns)


def _limited(column: Column, least: Mapping[str, int]) -> Column:
    if not isinstance(column.shape, Goal):
        return column
    return replace(column, shape=replace(column.shape, least=least))


def _shown(latency: float, prepared: Prepared) -> str:
    unit = prepared.first.bench.target.unit
    return f"{latency / 1e6:.4g} ms" if unit == "ns" else f"{latency:.4g} {unit}"
