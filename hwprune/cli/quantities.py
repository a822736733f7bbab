"""Shares, durations and NAME=VALUE pairs as users type them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from hwprune.errors import UsageError

_SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


def parse_share(text: str) -> float:
    """``"2%"`` or ``"0.02"`` as 0.02.

    Raises
    ------
    UsageError
        Not a share between 0 and 1.
    """
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100.0 if text.strip().endswith("%") else 1.0)
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise UsageError(f"'{text}' is not a share", hint='write it as "2%" or "0.02"')
    return share


def parse_seconds(text: str) -> float:
    """``"90s"``, ``"10min"``, ``"1.5h"`` or a number of seconds.

    Raises
    ------
    UsageError
        Anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|)\s*", text)
    if not found:
        raise UsageError(f"'{text}' is not a duration", hint='write it as "90s", "10min" or "1h"')
    return float(found[1]) * _SECONDS[found[2]]


def read_pairs(texts: Sequence[str], what: str, example: str) -> dict[str, str]:
    """Texts like ``name=value``, as a dictionary.

    Raises
    ------
    UsageError
        One of them is no ``what``, or two are about the same; ``example`` is the hint.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise UsageError(f"'{text}' is no {what}", hint=f"write it as {example}")
        if name in found:
            raise UsageError(
                f"there are two entries for {name!r}, and one {what} is enough", hint="leave one of them out"
            )
        found[name] = value
    return found
