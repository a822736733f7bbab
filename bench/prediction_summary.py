"""Errors of predictions over networks, and the plot of predicted against measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr


def summary(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Errors over all networks and per model; ``spearman_min`` is that of the worst model."""
    models = {name: model_summary([r for r in rows if r["model"] == name]) for name in _names(rows)}
    errors = [abs(r["latency_ns"] / r["measured_ns"] - 1) for r in rows]
    return {
        "configs": len(rows),
        "median_abs_error": float(np.median(errors)),
        "p95_abs_error": float(np.percentile(errors, 95)),
        "spearman_min": min(m["spearman"] for m in models.values()),
        "profile_s": sum(about[name]["profile"]["seconds"] for name in models),
        "models": {name: {**found, **about[name]} for name, found in models.items()},
    }


def model_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Errors of one model's networks, and how often the interval holds the measured latency."""
    predicted, measured = (np.array([r[k] for r in rows]) for k in ("latency_ns", "measured_ns"))
    errors = predicted / measured - 1
    return {
        "configs": len(rows),
        "median_abs_error": float(np.median(np.abs(errors))),
        "p95_abs_error": float(np.percentile(np.abs(errors), 95)),
        "median_error": float(np.median(errors)),
        "spearman": float(spearmanr(predicted, measured).statistic) if len(rows) > 2 else 1.0,
        "within_interval": float(np.mean([r["low_ns"] <= r["measured_ns"] <= r["high_ns"] for r in rows])),
        "interpolated_share": float(np.mean([r["interpolated"] for r in rows])),
        "least_ms": float(measured.min() / 1e6),
        "most_ms": float(measured.max() / 1e6),
    }


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(r["model"]) for r in rows))


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Predicted against measured, logarithmic, one colour a model."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "hwprune"  # the same numbers give the same file
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 6.0))
    for name in _names(rows):
        own = [r for r in rows if r["model"] == name]
        axis.plot(
            [r["measured_ns"] / 1e6 for r in own],
            [r["latency_ns"] / 1e6 for r in own],
            "o",
            markersize=4,
            alpha=0.7,
            label=name,
        )
    low = min(r["measured_ns"] for r in rows) / 1e6 * 0.9
    high = max(r["measured_ns"] for r in rows) / 1e6 * 1.1
    axis.plot([low, high], [low, high], color="#444444", linewidth=0.8)
    axis.fill_between(
        [low, high], [0.92 * low, 0.92 * high], [1.08 * low, 1.08 * high], color="#bbbbbb", alpha=0.3
    )
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axis.set_xlabel("measured, ms")
    axis.set_ylabel("predicted, ms (band: 8 %)")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
