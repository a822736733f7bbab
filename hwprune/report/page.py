"""The report as one self-contained HTML page, and the same as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwprune.errors import MissingExtraError, ReportError
from hwprune.report import plots, words
from hwprune.report.data import ReportData


@dataclass(frozen=True)
class Card:
    """One number of the first screen."""

    label: str
    value: str
    detail: str


def write_report(data: ReportData, directory: Path) -> Path:
    """Write ``report.html`` and ``report.json`` into ``directory`` (made if missing).

    Both are rendered before either is written, and each replaces its predecessor at once, so that
    no reader ever sees half a file.

    Returns
    -------
    Path
        The HTML page.

    Raises
    ------
    MissingExtraError
        jinja2 or matplotlib is not installed.
    ReportError
        The directory cannot be written.
    """
    page = directory / "report.html"
    contents = {page: render(data), directory / "report.json": data.model_dump_json(indent=2) + "\n"}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in contents.items():
            _replace(path, text)
    except OSError as error:
        raise ReportError(
            f"the report cannot be written to {directory}: {error.strerror or error}",
            hint="choose a directory that you may write to and that has space left",
        ) from error
    return page


def render(data: ReportData) -> str:
    """The page as HTML; no script, no outside resource.

    Raises
    ------
    MissingExtraError
        jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            "the report needs jinja2, which is not installed", hint="pip install hwprune[report]"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        ms=words.ms,
        us=words.us,
        seconds=words.seconds,
        percent=words.percent,
        times=words.times,
        number=words.number,
        count=_count,
        css=_css,
    )
    return environment.get_template("template.html").render(_context(data))


def _context(data: ReportData) -> dict[str, Any]:
    """What the template reads besides ``data``: sums, sentences and drawings."""
    dense, kept = sum(g.dense for g in data.groups), sum(g.kept for g in data.groups)
    kernels = data.kernels
    return {
        "data": data,
        "verdict": words.verdict(data),
        "cards": _cards(data),
        "latencies": [
            (name, m)
            for name, m in (
                ("dense", data.dense),
                ("dense", data.dense_predicted),
                ("pruned", data.predicted),
                ("pruned", data.measured),
            )
            if m is not None
        ],
        "interval": words.interval,
        "comparison_note": _comparison_note(data),
        "channels": {"dense": dense, "kept": kept, "fraction": kept / dense if dense else 1.0},
        "widest": max((g.dense for g in data.groups), default=1),
        "has_importance": any(g.importance_kept is not None for g in data.groups),
        "kernel_kinds": " and ".join(dict.fromkeys(k.kind for k in kernels)),
        "kernel_sums": {
            "dense": sum(k.dense_us for k in kernels),
            "pruned": sum(k.pruned_us or 0.0 for k in kernels),
        },
        "has_pruned_kernels": any(k.pruned_us is not None for k in kernels),
        "staircases": _staircases(data),
        "plots": _plots(data),
    }


def _plots(data: ReportData) -> dict[str, Any]:
    """The drawings by name; None where the data for one is missing."""
    from markupsafe import Markup

    accuracy = data.accuracy if data.accuracy is not None and data.accuracy.stages else None
    return {
        "latency": Markup(plots.latency(data)),
        "comparison": Markup(plots.comparison(data.contenders)) if data.contenders else None,
        "accuracy": Markup(plots.accuracy(accuracy)) if accuracy else None,
        "kernels_wide": Markup(plots.kernels(data.kernels, wide=True)) if data.kernels else None,
        "kernels_narrow": Markup(plots.kernels(data.kernels, wide=False)) if data.kernels else None,
    }


def _staircases(data: ReportData) -> list[dict[str, Any]]:
    from markupsafe import Markup

    multiples = {g.name: g.multiple for g in data.groups}
    return [
        {
            "stairs": s,
            "multiple": multiples.get(s.group, 1),
            "points": list(zip(s.widths, s.latency_us, s.low, s.high, strict=True)),
            "svg": Markup(plots.staircase(s, number, multiples.get(s.group, 1))),
        }
        for number, s in enumerate(data.staircases)
    ]


def _cards(data: ReportData) -> list[Card]:
    shipped = data.shipped
    latency, budget = words.apart(shipped.value_ms, data.budget_ms)
    around = f", {words.interval(shipped.low_ms, shipped.high_ms)}" if shipped.has_interval else ""
    cards = [Card("Latency, pruned", f"{latency}{words.SPACE}ms", f"{shipped.kind}{around}")]
    dense = words.dense_of_same_kind(data)
    if dense is not None:
        ratio = dense.value_ms / shipped.value_ms
        label, ratio = ("Speed-up", ratio) if ratio >= 1 else ("Slow-down", 1 / ratio)
        cards.append(Card(label, words.times(ratio), f"dense {words.ms(dense.value_ms)}, {dense.kind}"))
    used = shipped.value_ms / data.budget_ms
    cards.append(
        Card("Budget", f"{budget}{words.SPACE}ms", f"{words.percent(used)} used; asked “{data.budget_asked}”")
    )
    accuracy = data.accuracy
    if accuracy is not None and accuracy.final is not None:
        change = (
            "" if accuracy.dense is None else f"{_points(accuracy.final - accuracy.dense)} against dense, "
        )
        cards.append(Card("Accuracy", words.percent(accuracy.final), f"{change}{accuracy.dataset}"))
    if data.measured is not None:
        error = data.predicted.value_ms / data.measured.value_ms - 1
        detail = f"{words.ms(data.predicted.value_ms)} {data.predicted.kind}"
        cards.append(Card("Prediction error", words.signed_percent(error), detail))
    if data.groups:
        dense_channels, kept = sum(g.dense for g in data.groups), sum(g.kept for g in data.groups)
        detail = f"{_count(kept)} of {_count(dense_channels)}, {len(data.groups)} groups"
        cards.append(Card("Channels kept", words.percent(kept / dense_channels), detail))
    if data.max_rel_error is not None:
        cards.append(
            Card(
                "Against PyTorch", words.number(data.max_rel_error), "largest relative error, compiled module"
            )
        )
    if data.solver is not None and data.solver.gap is not None:
        cards.append(Card("Optimality gap", words.percent(data.solver.gap, 2), f"proven, {data.solver.name}"))
    return cards


def _comparison_note(data: ReportData) -> str:
    ahead = [c.name for c in data.contenders if c.ratio < 1]
    return f"Faster than the pruned module: {', '.join(ahead)}." if ahead else ""


def _points(difference: float) -> str:
    return words.signed_percent(difference).replace("%", "points")


def _count(value: int) -> str:
    return f"{value:,}"


def _css(value: float) -> str:
    return f"{value:.2f}"


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
