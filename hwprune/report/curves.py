"""The drawings over an axis: all kernels in execution order, and latency over width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwprune.report import words
from hwprune.report.data import KernelRow, Staircase
from hwprune.report.svg import DENSE, GRID, INK, MUTED, NARROW, PRUNED, WIDE, figure, inline, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Above so many kernels the bars merge into a profile.
_SEPARATE_BARS = 80


def kernels(rows: Sequence[KernelRow], *, wide: bool) -> str:
    """Latency of every kernel in execution order, dense behind pruned."""
    with settings():
        from matplotlib.ticker import MaxNLocator

        drawing = figure(WIDE if wide else NARROW, 250 if wide else 220)
        axes = drawing.subplots()
        separate = len(rows) <= _SEPARATE_BARS
        _bars(axes, [k.dense_us for k in rows], 0.86 if separate else 1.0, DENSE, 0.45)
        _bars(axes, [k.pruned_us or 0.0 for k in rows], 0.5 if separate else 1.0, PRUNED, 1.0)
        top = max(max(k.dense_us, k.pruned_us or 0.0) for k in rows) or 1.0
        axes.set_xlim(0.4, len(rows) + 0.6)
        axes.set_ylim(0, 1.06 * top)
        axes.xaxis.set_major_locator(MaxNLocator(12 if wide else 6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.grid(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("kernel, in execution order")
        axes.set_ylabel("latency (µs)")
        name = "kernels-wide" if wide else "kernels-narrow"
        return inline(drawing, name, "Latency of every kernel in execution order, dense and pruned")


def staircase(stairs: Staircase, number: int, multiple: int) -> str:
    """Latency over width with its interval; vertical grid at multiples of the block."""
    with settings():
        from matplotlib.ticker import MaxNLocator

        drawing = figure(NARROW, 250)
        axes = drawing.subplots()
        x, y = list(stairs.widths), list(stairs.latency_us)
        right = max(x[-1], stairs.dense, stairs.chosen)
        blocks = list(range(0, right + 1, multiple)) if multiple > 1 else []
        if len(blocks) <= 64:
            for edge in blocks:
                axes.axvline(edge, color=GRID, linewidth=0.8)
        # A width costs as much as the next wider block, hence "pre".
        axes.fill_between(x, stairs.low, stairs.high, step="pre", color=DENSE, alpha=0.3, linewidth=0)
        axes.step(x, y, where="pre", color=INK, linewidth=1.6)
        if len(x) <= 40:
            axes.plot(x, y, ".", color=INK, markersize=5)
        top = max(*stairs.high, *y) or 1.0
        marks = ((stairs.dense, DENSE, "dense", 1.22), (stairs.chosen, PRUNED, "chosen", 1.10))
        for width, colour, name, height in marks:
            if name == "dense" and width == stairs.chosen:
                continue
            axes.axvline(width, color=colour, linewidth=1.6, linestyle=(0, (4, 3)))
            axes.text(
                width,
                height * top,
                f"{words.SPACE}{name} {width}{words.SPACE}",
                color=MUTED if name == "dense" else PRUNED,
                ha="right" if width > 0.5 * right else "left",
                va="center",
            )
            if width in x:
                axes.plot([width], [y[x.index(width)]], "o", color=colour, markersize=9, zorder=3)
        axes.set_xlim(0, right * 1.02)
        axes.set_ylim(0, 1.28 * top)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 4, 8], integer=True))
        if blocks:
            stride = multiple * -(-len(blocks) // 7)
            axes.set_xticks(range(0, right + 1, stride))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(length=0)
        axes.set_xlabel("width (channels)")
        axes.set_ylabel(f"{stairs.kind} latency (µs)")
        return inline(drawing, f"staircase-{number}", f"Latency over width of {stairs.label}")


def _bars(axes: Axes, heights: Sequence[float], width: float, colour: str, alpha: float) -> None:
    """All bars as one path: a hundred kernels must not weigh a hundred elements."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners: list[tuple[float, float]] = []
    codes: list[int] = []
    for number, height in enumerate(heights, start=1):
        if height <= 0:
            continue
        left, right = number - width / 2, number + width / 2
        corners += [(left, 0), (left, height), (right, height), (right, 0), (left, 0)]
        codes += [int(Path.MOVETO), *[int(Path.LINETO)] * 3, int(Path.CLOSEPOLY)]
    if corners:
        axes.add_patch(PathPatch(Path(corners, codes), facecolor=colour, alpha=alpha, linewidth=0))
