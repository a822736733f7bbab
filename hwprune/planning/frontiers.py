"""A frontier on disk: every point a plan file, a JSON file about all of them, and a drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwprune.artifact import atomic_write_text, write_json
from hwprune.errors import UsageError
from hwprune.planner.pareto import Curve
from hwprune.report.frontier import FrontierData, draw_frontier
from hwprune.solve.plan import Plan

KIND, VERSION = "hwprune.frontier", 1


@dataclass(frozen=True)
class Frontier:
    """Plans from the slowest to the quickest, none of which is dominated by another.

    ``curve`` holds the solver's results behind them, and those of other methods.
    """

    plans: tuple[Plan, ...]
    curve: Curve

    def plan_paths(self, path: Path) -> list[Path]:
        """Where :meth:`save` puts the plans: ``frontier.json`` has them in ``frontier/``."""
        directory = path.with_suffix("") if path.suffix else path.with_name(f"{path.name}-plans")
        return [directory / f"{number:02d}.json" for number in range(1, len(self.plans) + 1)]

    def save(self, path: str | Path) -> None:
        """Write the JSON file at ``path``, after the plan files beside it.

        Raises
        ------
        ArtifactError
            A file cannot be written.
        """
        path = Path(path)
        for plan, place in zip(self.plans, self.plan_paths(path), strict=True):
            plan.save(place)
        write_json(path, KIND, VERSION, self.data(path))

    def data(self, path: Path) -> dict[str, Any]:
        """What the JSON file says; latencies in the ``unit`` of the plans, whatever the names say."""
        first, curve = self.plans[0], self.curve
        points = [
            {
                "plan": str(place.relative_to(path.parent)),
                "predicted_ns": plan.predicted_ns,
                "measured_ns": result.measured_ns,
                "value": plan.value,
                "importance": plan.value / curve.dense_value if curve.dense_value else None,
                "gap": plan.gap,
            }
            for plan, place, result in zip(self.plans, self.plan_paths(path), curve.points, strict=True)
        ]
        return {
            "model": first.model,
            "fingerprint": first.fingerprint,
            "target": first.target,
            "unit": first.unit,
            "provenance": first.provenance,
            "dense_ns": curve.dense_ns,
            "least_ns": curve.least_ns,
            "dense_value": curve.dense_value,
            "budgets_ns": list(curve.budgets),
            "points": points,
            "rivals": {
                name: [{"predicted_ns": mark.latency_ns, "value": mark.value} for mark in marks]
                for name, marks in curve.rivals.items()
            },
        }

    def plot(self, path: str | Path) -> None:
        """Draw it as an SVG file.

        Raises
        ------
        MissingExtraError
            matplotlib is not installed.
        UsageError
            ``path`` does not end in ``.svg``.
        ArtifactError
            The file cannot be written.
        """
        check_plot(Path(path))
        atomic_write_text(path, draw_frontier(self._drawn()))

    def _drawn(self) -> FrontierData:
        curve, first = self.curve, self.plans[0]
        scale, unit = (1e-6, "ms") if first.unit == "ns" else (1.0, first.unit)
        whole = curve.dense_value or 1.0
        timed = [(r.measured_ns, r.solution.value / whole) for r in curve.points if r.measured_ns is not None]
        return FrontierData(
            title=f"{first.model} on {first.target}",
            exact=[(r.predicted_ns * scale, r.solution.value / whole) for r in curve.points],
            measured=[(ns * scale, share) for ns, share in timed],
            rivals={
                name: [(mark.latency_ns * scale, mark.value / whole) for mark in marks]
                for name, marks in curve.rivals.items()
            },
            dense=curve.dense_ns * scale,
            unit=unit,
        )


def check_plot(path: Path) -> None:
    """Refuse a drawing that is not an SVG file, before the work that it shows.

    Raises
    ------
    UsageError
        Another suffix.
    """
    if path.suffix.lower() != ".svg":
        raise UsageError(f"{path} is not an .svg file", hint="drawings are written as SVG: name it so")
