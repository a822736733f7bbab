"""Amounts that people limit: ``5M`` parameters, ``8MB`` of memory, ``50%`` of either; ranges of shares."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from hwprune.errors import BudgetError, UsageError

_UNITS = {
    "parameters": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9},
    "bytes": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
}
_EXAMPLES = {
    "parameters": "write a share of the dense model's (50%) or a number (5M, 800k, 1200000)",
    "bytes": "write a share of what the dense model needs (50%) or bytes (8MB, 512KiB)",
}
_AMOUNT = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-zA-Z]*|%)")


@dataclass(frozen=True)
class Amount:
    """A limit as it was asked for: a share (0..1) of the dense model's, or a number."""

    asked: str
    unit: str
    number: float
    is_share: bool

    @staticmethod
    def parse(text: str | float, unit: str, what: str) -> Amount:
        """Read an amount of ``unit`` (``"parameters"`` or ``"bytes"``); ``what`` is for messages.

        ``"50%"`` and plain numbers up to 1 are shares.

        Raises
        ------
        BudgetError
            Malformed, of an unknown unit, or not above zero.
        """
        asked = str(text).strip()
        match = None if isinstance(text, bool) else _AMOUNT.fullmatch(asked)
        if match is None:
            raise BudgetError(f"limit '{asked}' on {what} cannot be read", hint=_EXAMPLES[unit])
        number, suffix = float(match[1]), match[2].lower()
        share = suffix == "%" or (not suffix and number <= 1.0)
        factor = 0.01 if suffix == "%" else 1.0 if share else _UNITS[unit].get(suffix)
        if factor is None:
            problem = f"has the unknown unit '{match[2]}'" if suffix else "has no unit"
            raise BudgetError(f"limit '{asked}' on {what} {problem}", hint=_EXAMPLES[unit])
        if not math.isfinite(number * factor) or number * factor <= 0:
            raise BudgetError(f"limit '{asked}' on {what} is not above zero", hint=_EXAMPLES[unit])
        return Amount(asked, unit, number * factor, share)

    def of(self, dense: float) -> float:
        """The amount, for a dense model that has ``dense``."""
        return self.number * dense if self.is_share else self.number


def describe(amount: float, unit: str) -> str:
    """An amount for people: ``4.52 MB``, ``1,234,567 parameters``."""
    if unit != "bytes":
        return f"{amount:,.0f} {unit}"
    for name, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= factor:
            return f"{amount / factor:.4g} {name}"
    return f"{amount:.0f} bytes"


def parse_range(text: str) -> tuple[float, float]:
    """``"50%..100%"``, ``"0.5..1"``, ``"..75%"``, ``"50%.."`` or ``"50%"`` (at most) as two shares.

    Raises
    ------
    UsageError
        Anything else.
    """
    low, dots, high = text.strip().partition("..")
    ends = (low, high) if dots else ("", low)
    try:
        shares = tuple(
            _share(end) if end.strip() else default for end, default in zip(ends, (0.0, 1.0), strict=True)
        )
    except ValueError:
        shares = (math.nan, math.nan)
    if not text.strip().strip(".") or not all(0.0 <= share <= 1.0 for share in shares):
        raise UsageError(
            f"'{text}' is not a range of shares",
            hint='write it as "50%..100%", "0.25..0.75", "..75%" or "50%.."',
        )
    if shares[0] > shares[1]:
        raise UsageError(f"the range '{text}' runs backwards", hint="write the smaller share first")
    return shares[0], shares[1]


def _share(text: str) -> float:
    number = text.strip()
    return float(number.removesuffix("%")) / (100.0 if number.endswith("%") else 1.0)
