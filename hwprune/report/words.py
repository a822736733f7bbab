"""Numbers and verdicts as people read them: a few significant digits, always with the unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwprune.report.data import Measurement, ReportData

#: Between a number and its unit, so that no line breaks there.
SPACE = "\u00a0"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, without an exponent where that stays readable."""
    if value == 0:
        return "0"
    # Rounding first lets 9.996 become 10.0, not 10.00.
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -4:
        mantissa, power = f"{value:.{max(digits - 2, 0)}e}".split("e")
        return f"{mantissa}{SPACE}×{SPACE}10{str(int(power)).translate(_SUPERSCRIPT)}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def ms(value: float, digits: int = 3) -> str:
    """Milliseconds, for example ``1.94 ms``."""
    return f"{number(value, digits)}{SPACE}ms"


def us(value: float) -> str:
    """Microseconds, for example ``184 µs``."""
    return f"{number(value)}{SPACE}µs"


def seconds(value: float) -> str:
    """A duration: ``0.42 s``, ``12.3 s``, ``3 min 05 s``."""
    if value < 100:
        return f"{number(value, 2 if value < 1 else 3)}{SPACE}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}{SPACE}min{SPACE}{rest:02d}{SPACE}s"


def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction as ``97.8 %``; something between 0 and the smallest step is not shown as 0."""
    smallest = 10.0**-decimals
    if 0 < fraction * 100 < smallest / 2:
        return f"<{SPACE}{smallest:.{decimals}f}{SPACE}%"
    return f"{fraction * 100:.{decimals}f}{SPACE}%"


def signed_percent(fraction: float) -> str:
    """A difference as ``+1.2 %`` or ``−3.0 %``."""
    sign = "−" if round(fraction * 100, 1) < 0 else "+"
    return f"{sign}{abs(fraction) * 100:.1f}{SPACE}%"


def count(value: int) -> str:
    """A whole number with its thousands set apart."""
    return f"{value:,}"


def times(ratio: float) -> str:
    """A ratio as ``2.11×``."""
    return f"{number(ratio)}×"


def interval(low_ms: float, high_ms: float) -> str:
    """The ends of an interval with as many digits as tell them apart: ``1.89–1.93 ms``, or ``none``."""
    if low_ms == high_ms:
        return "none"
    low, high = apart(low_ms, high_ms)
    return f"{low}–{high}{SPACE}ms"


def apart(first: float, second: float) -> tuple[str, str]:
    """Both numbers with enough digits that different numbers read differently."""
    for digits in range(3, 8):
        pair = number(first, digits), number(second, digits)
        if pair[0] != pair[1]:
            break
    else:
        pair = number(first), number(second)
    return pair


@dataclass(frozen=True)
class Verdict:
    """The first sentence of the report.

    ``tone`` is ``"good"`` (budget met, faster than dense, both measured), ``"bad"`` (budget
    missed or slower than dense) or ``"open"`` (not measured, or no difference from dense).
    ``badge`` is the same in two words, so that nobody depends on the colour.
    """

    sentence: str
    tone: str
    badge: str


def verdict(data: ReportData) -> Verdict:
    """Latency, gain over the dense model, accuracy and budget in one or two plain sentences."""
    shipped = data.shipped
    value, budget = apart(shipped.value_ms, data.budget_ms)
    kind = "" if shipped.kind == "measured" else f" ({shipped.kind}, not measured)"
    against, relation = _against_dense(data)
    met = shipped.value_ms <= data.budget_ms
    sentence = (
        f"This model runs in {value}{SPACE}ms{kind} on {data.device}{against}{_accuracy(data)}. "
        f"Budget {budget}{SPACE}ms: {_budget(data, met)}."
    )
    if not met or relation == "slower":
        faults = ["budget missed"] * (not met) + ["slower than dense"] * (relation == "slower")
        return Verdict(sentence, "bad", " and ".join(faults).capitalize())
    if shipped.kind != "measured":
        return Verdict(sentence, "open", f"Only {shipped.kind}")
    if relation == "equal":
        return Verdict(sentence, "open", "No gain over dense")
    return Verdict(sentence, "good", "Budget met")


def dense_of_same_kind(data: ReportData) -> Measurement | None:
    """The dense latency that may be divided by the pruned one: both measured, or both predicted."""
    every = (data.dense, data.dense_predicted)
    return next((m for m in every if m is not None and m.kind == data.shipped.kind), None)


def _against_dense(data: ReportData) -> tuple[str, str]:
    dense, shipped = dense_of_same_kind(data), data.shipped
    if dense is None:
        return f" (dense: {ms(data.dense.value_ms)} {data.dense.kind}, so no ratio)", "unknown"
    if dense.low_ms <= shipped.high_ms and shipped.low_ms <= dense.high_ms:
        return f", no measurable difference from dense ({ms(dense.value_ms)})", "equal"
    if shipped.value_ms < dense.value_ms:
        return (
            f", {times(dense.value_ms / shipped.value_ms)} faster than dense ({ms(dense.value_ms)})",
            "faster",
        )
    slower = percent(shipped.value_ms / dense.value_ms - 1)
    return (
        f", {slower} slower than dense ({ms(dense.value_ms)}): pruning did not pay on this device",
        "slower",
    )


def _accuracy(data: ReportData) -> str:
    accuracy = data.accuracy
    if accuracy is None or accuracy.final is None:
        return ""
    dense = "" if accuracy.dense is None else f" (dense {percent(accuracy.dense)})"
    return f"; accuracy {percent(accuracy.final)} on {accuracy.dataset}{dense}"


def _budget(data: ReportData, met: bool) -> str:
    shipped = data.shipped
    if met:
        if shipped.high_ms > data.budget_ms:
            return f"met, though the interval reaches {ms(shipped.high_ms)}"
        return "met" if shipped.kind == "measured" else f"met as {shipped.kind}"
    over = shipped.value_ms - data.budget_ms
    missed = f"missed by {ms(over, 2)} ({percent(over / data.budget_ms)})"
    if shipped.low_ms < shipped.value_ms and shipped.low_ms <= data.budget_ms:
        return f"{missed}, though the interval reaches down to {ms(shipped.low_ms)}"
    return missed
