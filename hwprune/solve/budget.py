"""Latency budgets as people write them."""

from __future__ import annotations

import math
import re

from hwprune.errors import BudgetError, BudgetMetError

_TIME_NS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9}
_BUDGET = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([^\W\d_]+|%)?")
_EXAMPLES = "write a share of the dense latency (50%, 0.5) or a time with its unit (8ms, 800us, 0.01s)"


def parse_budget(text: str | float, dense_ns: float, *, unit: str = "ns") -> float:
    """Turn a budget into nanoseconds.

    Parameters
    ----------
    text
        ``"50%"``, ``"8ms"``, ``"800us"``, ``"0.01s"``, ``"5000ns"``, or a plain number up to 1: a
        fraction of the dense latency.
    dense_ns
        Latency of the dense model.
    unit
        Unit of ``dense_ns``. For a target that counts ``"instructions"`` or ``"cycles"`` times make
        no sense: shares and numbers of that unit (``"90000cycles"``) are accepted instead.

    Returns
    -------
    float
        The budget in nanoseconds (or in ``unit``), above 0 and below ``dense_ns``.

    Raises
    ------
    BudgetMetError
        The dense model already meets the budget.
    BudgetError
        Malformed, without a unit, or not positive.
    """
    asked = str(text).strip()
    match = None if isinstance(text, bool) else _BUDGET.fullmatch(asked)
    if match is None:
        raise BudgetError(f"budget '{asked}' cannot be read", hint=_EXAMPLES)
    number, suffix = float(match[1]), match[2]
    if not math.isfinite(number) or number <= 0:
        raise BudgetError(f"budget '{asked}' is not above zero", hint=_EXAMPLES)
    budget = _in_unit(asked, number, suffix, dense_ns, unit)
    if not math.isfinite(budget) or budget <= 0:
        raise BudgetError(f"budget '{asked}' is not above zero", hint=_EXAMPLES)
    if budget >= dense_ns:
        dense = f"{dense_ns / 1e6:.4g} ms" if unit == "ns" else f"{dense_ns:.6g} {unit}"
        raise BudgetMetError(
            f"the dense model already meets the budget '{asked}': it takes {dense}",
            hint="use the dense model as it is, or ask for less",
        )
    return budget


def _in_unit(asked: str, number: float, suffix: str | None, dense: float, unit: str) -> float:
    if suffix == "%":
        return number / 100.0 * dense
    if suffix is None:
        if number > 1.0:
            raise BudgetError(f"budget '{asked}' has no unit", hint=_EXAMPLES)
        return number * dense
    known = _TIME_NS if unit == "ns" else {unit: 1.0}
    # Case matters to nobody here: there is no megasecond on the list.
    factor = known.get(suffix) or known.get(suffix.lower())
    if factor is None:
        raise BudgetError(
            f"budget '{asked}' has the unknown unit '{suffix}'; this target counts {unit}",
            hint=_EXAMPLES if unit == "ns" else f"write a share (50%) or a number of {unit} (90000{unit})",
        )
    return number * factor
