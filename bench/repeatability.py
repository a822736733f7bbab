"""The same sweep twice: how far do the numbers of a latency table agree an hour later?

    python -m bench.repeatability             # first sweep, an hour of waiting, second sweep, comparison
    python -m bench.repeatability --no-wait   # as much as can be done now; run it again later

Kernels of torchvision models at random aligned widths, drawn by ``--seed``, are built and timed into two
tables, each sweep in an order of its own. A sweep that was cut off goes on where it stopped, and a second
one begins ``--pause`` seconds after the first has ended. For every kernel the second median is set against
the first; *beyond both* are kernels whose medians lie outside each other's confidence interval. What the
whole machine did in between is in ``sentinel_change``, and in the median of all differences;
``spread_p95_abs`` is what is left without it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import torchvision_models, write_result
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.latency.diff import TableDiff, diff
from hwprune.latency.fusion import fuse
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.location import tables_root
from hwprune.latency.manifest import MANIFEST_NAME
from hwprune.latency.rows import UNTRUSTED
from hwprune.latency.table import LatencyTable
from hwprune.measure.outcome import ProfileReport
from hwprune.measure.profile import profile
from hwprune.measure.record import unfinished
from hwprune.measure.rotation import sentinel_spec
from hwprune.measure.stopping import PROFILES, MeasureProfile
from hwprune.planner.widths import group_widths
from hwprune.target import Target, load_target, require_runnable

HALVES = ("first", "second")


@dataclass(frozen=True)
class Setting:
    """What is measured, and where the two tables lie."""

    specs: tuple[KernelSpec, ...]
    target: Target
    care: MeasureProfile
    place: Path
    seed: int

    def complete(self, half: str) -> LatencyTable | None:
        """The table of a half if every kernel has a finished row in it, of whatever status."""
        if not (self.place / half / MANIFEST_NAME).is_file():
            return None
        table = LatencyTable.load(self.place / half)
        rows = [table.get(spec) for spec in self.specs]
        return table if all(row is not None and not unfinished(row) for row in rows) else None


def kernels(models: Sequence[str], count: int, target: Target, seed: int) -> list[KernelSpec]:
    """Some kernels of the models, dense and at random widths that a plan may choose."""
    draw = random.Random(seed)
    found: dict[str, KernelSpec] = {}
    for name in models:
        model = getattr(torchvision_models(), name)(weights=None).eval()
        captured = capture(model, (torch.zeros(1, 3, 224, 224),))
        deps = analyse(captured)
        fused = fuse(captured.graph)
        families = fused.families(deps.extents)
        groups = group_widths(deps, captured.graph.graph, target)
        choices = [{n: g.widths[-1] for n, g in groups.items()}]
        choices += [{n: draw.choice(g.widths) for n, g in groups.items()} for _ in range(4)]
        for widths in choices:
            steps = fused.shape_program(families, widths).steps
            found.update({step.spec.digest(): step.spec for step in steps})
    return draw.sample([found[d] for d in sorted(found)], min(count, len(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", default="resnet18,resnet50,mobilenet_v2,vgg16")
    parser.add_argument("--kernels", type=int, default=150, help="how many of them")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="table")
    parser.add_argument("--pause", type=float, default=3600.0, help="seconds between the sweeps")
    parser.add_argument("--no-wait", action="store_true", help="leave before the pause instead of waiting")
    parser.add_argument("--untrusted", action="store_true", help="compare rows timed in unrest, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path, help="directory of the two tables; new for other settings")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/repeatability.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    target = load_target(options.target, threads=options.threads)
    require_runnable(target)
    specs = kernels(options.models.split(","), options.kernels, target, options.seed)
    name = f"{target.name}-t{options.threads}-{options.profile}-{len(specs)}-s{options.seed}"
    place = options.place or tables_root().with_name("repeatability") / name
    setting = Setting(tuple(specs), target, PROFILES[options.profile], place, options.seed)
    if not both(setting, options.pause, wait=not options.no_wait):
        return
    first, second = (LatencyTable.load(place / half) for half in HALVES)
    found = diff(first, second, untrusted=options.untrusted)
    settings = {"models": options.models, "threads": options.threads, "profile": options.profile}
    result = {**settings, **summary(first, second, found)}
    write_result(options.out, result, rows_of(found), as_json=options.json, quiet=not options.json)
    if not options.json:
        for key, value in result.items():
            print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
        print(f"written to {options.out}")


def both(setting: Setting, pause: float, *, wait: bool) -> bool:
    """Make the sweeps that are missing; False if the second is not due yet."""
    first = setting.complete("first")
    if first is None:
        say(sweep(setting, "first"))
        first = LatencyTable.load(setting.place / "first")
    if setting.complete("second") is not None:
        return True
    if not (setting.place / "second" / MANIFEST_NAME).is_file():  # else it was begun in time
        due = ended(first) + pause
        if time.time() < due and not wait:
            at = datetime.fromtimestamp(due, UTC).isoformat(timespec="seconds")
            say(f"the second sweep is due at {at}: run the same command again then")
            return False
        while time.time() < due:
            say(f"waiting {(due - time.time()) / 60:.0f} minutes for the second sweep")
            time.sleep(min(600.0, max(0.0, due - time.time())))
    say(sweep(setting, "second"))
    return True


def sweep(setting: Setting, half: str) -> str:
    """Bring what is missing into the table of a half."""
    report: ProfileReport = profile(
        setting.specs,
        setting.target,
        setting.place / half,
        profile=setting.care,
        progress=lambda done, total, label: (
            say(f"{half} sweep: {done} of {total}") if done % 25 == 0 else None
        ),
        seed=2 * setting.seed + HALVES.index(half),
    )
    return f"{half} sweep: {report.sentence()}; {report.build_s + report.check_s + report.time_s:.0f} s"


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def ended(table: LatencyTable) -> float:
    """When the last row was timed, in seconds since 1970."""
    return max(datetime.fromisoformat(row.measured_at).timestamp() for row in table)


def began(table: LatencyTable) -> float:
    """When the first row was timed, in seconds since 1970."""
    return min(datetime.fromisoformat(row.measured_at).timestamp() for row in table)


def summary(first: LatencyTable, second: LatencyTable, found: TableDiff) -> dict[str, Any]:
    """Distribution of the relative differences of medians, second over first, less one."""
    common = found.summary()
    relative = np.array([d.relative for d in found.compared])
    rest = np.abs((1 + relative) / (1 + np.median(relative)) - 1) if len(relative) else None
    widths = [(r.ci_high - r.ci_low) / r.median for t in (first, second) for r in t if r.median > 0]
    sentinels = [table.get(sentinel_spec()) for table in (first, second)]
    one, two = (row.median if row is not None else None for row in sentinels)
    return {
        "kernels": found.rows_first,
        "compared": common["compared"],
        "untrusted": sum(row.status == UNTRUSTED for table in (first, second) for row in table),
        "failed": common["failed"],
        "pause_s": began(second) - ended(first),
        "median": common["median"],
        "p5": common["p5"],
        "p95": common["p95"],
        "median_abs": common["median_abs"],
        "p95_abs": None if rest is None else float(np.quantile(np.abs(relative), 0.95)),
        "max_abs": common["max_abs"],
        "spread_p95_abs": None if rest is None else float(np.quantile(rest, 0.95)),
        "beyond_both_share": common["beyond_both_share"],
        "interval_median": float(np.median(widths)) if widths else None,
        "timeouts": sum(row.note.startswith("timeout") for table in (first, second) for row in table),
        "sentinel_change": two / one - 1 if one and two else None,
        "sweep_s": [ended(table) - began(table) for table in (first, second)],
    }


def rows_of(found: TableDiff) -> list[dict[str, Any]]:
    """A row a kernel, the largest difference first."""
    return [
        {
            "label": d.label,
            "first_us": d.first / 1e3,
            "second_us": d.second / 1e3,
            "relative": d.relative,
            "beyond_both": d.beyond_both,
        }
        for d in found.largest(len(found.compared))
    ]


if __name__ == "__main__":
    main()
