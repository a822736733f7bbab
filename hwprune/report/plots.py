"""The bar charts: latency, comparison, accuracy. Each returns an ``<svg>`` element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwprune.report import words
from hwprune.report.data import Accuracy, Contender, Measurement, ReportData
from hwprune.report.svg import BUDGET, DENSE, GRID, INK, NARROW, PRUNED, figure, inline, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def latency(data: ReportData) -> str:
    """Dense, predicted and measured latency as bars, with the budget as a line."""
    rows: list[tuple[str, Measurement, str]] = [("dense", data.dense, DENSE)]
    if data.dense_predicted is not None:
        rows.append(("dense", data.dense_predicted, DENSE))
    rows.append(("pruned", data.predicted, PRUNED))
    if data.measured is not None:
        rows.append(("pruned", data.measured, PRUNED))
    with settings():
        drawing = figure(NARROW, 48 * len(rows) + 64)
        axes = drawing.subplots()
        for row, (name, m, colour) in enumerate(rows):
            hollow = m.kind != "measured"
            _bar(axes, row, m.value_ms, m.low_ms, m.high_ms, colour, hollow=hollow)
            _bar_label(axes, row, f"{name}, {m.kind}", words.ms(m.value_ms))
        top = max(data.budget_ms, *(m.high_ms for _, m, _ in rows))
        axes.axvline(data.budget_ms, color=BUDGET, linewidth=1.6, linestyle=(0, (4, 3)))
        axes.text(
            data.budget_ms,
            len(rows) - 0.48,
            f"{words.SPACE}budget {words.ms(data.budget_ms)}{words.SPACE}",
            color=BUDGET,
            ha="right" if data.budget_ms > 0.5 * top else "left",
            va="center",
        )
        _bar_axes(axes, len(rows) + 0.45, top, "latency (ms)")
        return inline(
            drawing, "latency", "Latency, dense and pruned, predicted and measured, with the budget"
        )


def comparison(contenders: Sequence[Contender]) -> str:
    """Interleaved comparison: medians with their intervals."""
    with settings():
        drawing = figure(NARROW, 48 * len(contenders) + 44)
        axes = drawing.subplots()
        for row, c in enumerate(contenders):
            colour = PRUNED if c.ratio == 1 else DENSE
            _bar(axes, row, c.median_ms, c.low_ms, c.high_ms, colour, hollow=False)
            _bar_label(axes, row, c.name, words.ms(c.median_ms))
        _bar_axes(axes, len(contenders), max(c.high_ms for c in contenders), "median latency (ms)")
        return inline(drawing, "comparison", "Median latency of every contender with its interval")


def accuracy(stages: Accuracy) -> str:
    """Accuracy of the evaluated stages; dots, because the axis does not begin at zero."""
    with settings():
        from matplotlib.ticker import MaxNLocator

        points = stages.stages
        drawing = figure(NARROW, 44 * len(points) + 44)
        axes = drawing.subplots()
        values = [100 * value for _, value in points]
        low, high = min(values), max(values)
        pad = max(0.12 * (high - low), 0.5)
        left = max(0.0, low - pad)
        right = left + 1.3 * (high - left)  # the numbers stand on the right, clear of the dots
        if stages.dense is not None:
            axes.axvline(100 * stages.dense, color=DENSE, linewidth=1.4, linestyle=(0, (4, 3)))
        for row, (name, value) in enumerate(points):
            axes.axhline(row, color=GRID, linewidth=0.8)
            colour = DENSE if name == "dense" else PRUNED
            axes.plot([100 * value], [row], "o", color=colour, markersize=9, clip_on=False)
            place = axes.get_yaxis_transform()
            axes.text(0, row - 0.36, name, transform=place, ha="left", va="center")
            number = f"{words.SPACE}{words.percent(value)}"
            axes.text(1, row - 0.36, number, transform=place, ha="right", va="center", fontweight="bold")
        axes.set_ylim(len(points) - 0.6, -0.75)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(left, right)
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(left, high)
        axes.set_xticks([tick for tick in ticks if left <= tick <= high])
        axes.tick_params(length=0)
        axes.set_xlabel("accuracy (%); the axis does not begin at 0")
        return inline(drawing, "accuracy", f"Accuracy on {stages.dataset} by stage")


def _bar(axes: Axes, row: float, value: float, low: float, high: float, colour: str, *, hollow: bool) -> None:
    if hollow:
        axes.barh(row, value, height=0.34, color=colour, alpha=0.25, linewidth=0)
        axes.barh(row, value, height=0.34, fill=False, edgecolor=colour, linewidth=1.6)
    else:
        axes.barh(row, value, height=0.34, color=colour, linewidth=0)
    if low < high:
        axes.errorbar(
            value,
            row,
            xerr=[[value - low], [high - value]],
            color=INK,
            linewidth=1.4,
            capsize=4,
            capthick=1.4,
        )


def _bar_label(axes: Axes, row: float, name: str, value: str) -> None:
    """Name on the left and number on the right, above the bar, whatever its length."""
    place = axes.get_yaxis_transform()
    axes.text(0, row - 0.4, _short(name, 38), transform=place, ha="left", va="center")
    axes.text(1, row - 0.4, value, transform=place, ha="right", va="center", fontweight="bold")


def _bar_axes(axes: Axes, rows: float, top: float, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, 1.04 * top)
    axes.set_ylim(rows - 0.6, -0.75)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.grid(True)
    axes.tick_params(length=0)
    axes.set_xlabel(label)


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
