"""The drawing of a frontier: importance kept over latency, and the points of other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hwprune.report.svg import BUDGET, DENSE, INK, MUTED, NARROW, PRUNED, figure, inline, settings

Point = tuple[float, float]

_STYLE = """<style>
svg { --ink: #1c1e21; --muted: #5c636b; --grid: #d9dde1; --dense: #8b949e; --pruned: #0b6bcb;
  --budget: #c2410c; background: #ffffff; }
@media (prefers-color-scheme: dark) { svg { --ink: #e8eaed; --muted: #a3aab2; --grid: #3a4047;
  --dense: #8b949e; --pruned: #5aa9f8; --budget: #fb923c; background: #16181b; } }
text { font-family: system-ui, sans-serif; }
</style>"""


@dataclass(frozen=True)
class FrontierData:
    """What is drawn. Points are (latency, share of the importance), latency in ``unit``."""

    title: str
    exact: Sequence[Point]
    measured: Sequence[Point] = ()
    rivals: Mapping[str, Sequence[Point]] = field(default_factory=dict[str, Sequence[Point]])
    dense: float | None = None
    unit: str = "ms"


def draw_frontier(data: FrontierData) -> str:
    """The drawing as the text of an SVG file.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    with settings():
        from matplotlib.ticker import PercentFormatter

        drawing = figure(int(1.5 * NARROW), NARROW)
        axes = drawing.subplots()
        looks = ((MUTED, "s", (0, (1, 2))), (DENSE, "^", (0, (4, 3))), (BUDGET, "v", (0, (6, 2, 1, 2))))
        for (name, points), (colour, marker, dashes) in zip(data.rivals.items(), looks, strict=False):
            line = sorted(points)
            axes.plot(*_axes(line), color=colour, linewidth=1.2, linestyle=dashes, marker=marker, label=name)
        axes.plot(*_axes(sorted(data.exact)), color=PRUNED, linewidth=2.0, marker="o", label="optimal")
        if data.measured:
            axes.plot(
                *_axes(data.measured), "o", color=INK, fillstyle="none", markersize=10, label="measured"
            )
        if data.dense is not None:
            axes.axvline(data.dense, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label="dense")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.grid(True)
        axes.tick_params(length=0)
        axes.set_xlabel(f"latency ({data.unit})")
        axes.set_ylabel("importance kept")
        axes.set_title(data.title)
        drawing.legend(loc="outside lower center", ncols=5, frameon=False)
        svg = inline(drawing, "frontier", f"{data.title}: importance kept over latency")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head, _, rest = svg.partition(">")
    return f"{head.replace('<svg ', f'<svg {names} ', 1)}>{_STYLE}{rest}\n"


def _axes(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
