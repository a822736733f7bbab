"""A matplotlib figure as an SVG that lives inside a page and takes its colours from the page.

The plots are drawn with placeholder colours, which become CSS variables here; so one drawing
serves light, dark and print, and the style sheet alone decides the colours.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from typing import TYPE_CHECKING, Any

from hwprune.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

#: CSS variable -> the colour that stands for it while drawing.
INK = "#010101"
MUTED = "#020202"
GRID = "#030303"
DENSE = "#040404"
PRUNED = "#050505"
BUDGET = "#060606"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", DENSE: "dense", PRUNED: "pruned", BUDGET: "budget"}

#: Drawn for a phone's width; two fit side by side on a wide screen.
NARROW = 400
WIDE = 960

#: One unit of the drawing is one CSS pixel.
_DPI = 72

_SETTINGS: dict[RcKeyType, Any] = {
    "svg.hashsalt": "hwprune",  # the same data gives the same page
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and styled
    "text.parse_math": False,  # a layer name may hold a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "lines.solid_capstyle": "butt",
}


def settings() -> Any:
    """Context in which figures are drawn and written.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError(
            "the report needs matplotlib, which is not installed", hint="pip install hwprune[report]"
        ) from error
    return matplotlib.rc_context(_SETTINGS)


def figure(width: int, height: int) -> Figure:
    """An empty figure of so many CSS pixels, without a background."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    drawing.patch.set_visible(False)
    return drawing


def inline(drawing: Figure, name: str, description: str) -> str:
    """The figure as an ``<svg>`` element.

    Parameters
    ----------
    name
        Unique on the page: it becomes part of every id in the drawing.
    description
        What the picture shows, for those who cannot see it.
    """
    sink = io.StringIO()
    with warnings.catch_warnings():
        # Glyphs are drawn by the browser; it does not matter which ones the measuring font lacks.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        drawing.savefig(sink, format="svg", metadata={"Date": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    # A style element would apply to the whole page; style.css has its rules.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg[^>]*?viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r"((?:fill|stroke): ?)(#0[1-6]0[1-6]0[1-6])\b", _variable, text)
    text = re.sub(r"(<[^>]*\bid=\")", rf"\g<1>{name}-", text)
    text = re.sub(r"(<[^>]*(?:url\(|xlink:href=\")#)", rf"\g<1>{name}-", text)
    label = html.escape(description, quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def _variable(match: re.Match[str]) -> str:
    variable = _VARIABLES.get(match[2])
    return f"{match[1]}var(--{variable})" if variable else match[0]
