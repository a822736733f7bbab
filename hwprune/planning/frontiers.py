"""A frontier on disk: every point a plan file, a JSON file about all of them, and a drawing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwprune.artifact import (
    atomic_directory,
    atomic_write_bytes,
    atomic_write_text,
    load_json,
    read_json,
    write_json,
)
from hwprune.errors import ArtifactError, UsageError
from hwprune.planner.pareto import Curve
from hwprune.report.frontier import FrontierData, draw_frontier
from hwprune.solve.plan import Plan
from hwprune.solve.plan_file import KIND as PLAN_KIND

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
        return [_directory(path) / name for name in _names(len(self.plans))]

    def save(self, path: str | Path) -> None:
        """Write the JSON file at ``path`` and the plan files beside it: all of them, or nothing.

        Plans of an earlier frontier at this path are replaced, also where there were more of them;
        other files in their directory stay.

        Raises
        ------
        ArtifactError
            A file cannot be written, or one that is no plan has the name of a plan.
        """
        path = Path(path)
        check_place(path, len(self.plans))
        places = self.plan_paths(path)
        earlier = _plans_of(path) | {place.name for place in places}
        before = path.read_bytes() if path.is_file() else None
        said = False
        try:
            with atomic_directory(_directory(path), places[0].name, replaces=earlier) as fresh:
                for plan, place in zip(self.plans, places, strict=True):
                    plan.save(fresh / place.name)
                said = True
                write_json(path, KIND, VERSION, self.data(path))
        except BaseException:
            # The old plans are still there, so what is said about them must be, too.
            if said and before is not None:
                atomic_write_bytes(path, before)
            elif said:
                path.unlink(missing_ok=True)
            raise

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


def check_place(path: Path, count: int) -> None:
    """Refuse a place where ``count`` plans cannot be put, before the work behind them.

    Raises
    ------
    ArtifactError
        A file has the name of their directory, or one that is no plan has the name of a plan.
    """
    directory = _directory(path)
    if directory.exists() and not directory.is_dir():
        raise ArtifactError(
            f"the plans of {path} belong into {directory}, which is a file", hint="choose another output path"
        )
    for name in _names(count):
        place = directory / name
        if place.exists() and not _is_plan(place):
            raise ArtifactError(
                f"{place} is no plan, so no plan takes its place",
                hint="move that file away, or choose another output path",
            )


def read_frontier(path: Path) -> dict[str, Any] | None:
    """What the JSON file of a frontier says, None where a file is something else.

    Raises
    ------
    ArtifactError
        It is one, but damaged, edited or of another version.
    """
    try:
        if load_json(path, KIND, sys.maxsize, oldest=0).payload.get("points") is None:
            return None
    except ArtifactError:
        return None
    return read_json(path, KIND, VERSION)


def _directory(path: Path) -> Path:
    return path.with_suffix("") if path.suffix else path.with_name(f"{path.name}-plans")


def _names(count: int) -> list[str]:
    return [f"{number:02d}.json" for number in range(1, count + 1)]


def _plans_of(path: Path) -> set[str]:
    """Names of the plans that an earlier frontier at this path has in its directory."""
    try:
        payload = load_json(path, KIND, VERSION).payload
        listed = [path.parent / point["plan"] for point in payload["points"]]
    except (ArtifactError, KeyError, TypeError):
        return set()
    return {place.name for place in listed if place.parent == _directory(path)}


def _is_plan(path: Path) -> bool:
    try:
        load_json(path, PLAN_KIND, sys.maxsize, oldest=0)
    except ArtifactError:
        return False
    return True


def check_plot(path: Path) -> None:
    """Refuse a drawing that is not an SVG file, before the work that it shows.

    Raises
    ------
    UsageError
        Another suffix.
    """
    if path.suffix.lower() != ".svg":
        raise UsageError(f"{path} is not an .svg file", hint="drawings are written as SVG: name it so")
