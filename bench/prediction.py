"""Predicted against measured latency of networks at random aligned widths.

    python -m bench.prediction --models resnet18,mobilenet_v2 --configs 30

For each model: kernels are measured into the table (adaptively, up to ``--bound`` and ``--budget``);
the residual is calibrated with the dense network and ``--calibration`` thinned ones, drawn with
another seed than those that are judged; then ``--configs`` choices of widths are drawn and predicted,
and only after their predictions are stored are they compiled and timed end to end, interleaved with
the dense network. Each network runs in several processes, since where its buffers happen to lie
matters; times are brought to the pace that the core had when the residual was calibrated, as those
of kernels are brought to one pace (:mod:`hwprune.measure.pace`). Nothing that is measured here goes back
into table or residual. A run that was cut off goes on where it was.

A choice of widths is a level for the whole network, uniform, from which the width of every group strays
(:func:`hwprune.planner.prediction.random_widths`), so that networks of all sizes occur.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import Teller, write_result
from bench.cpu_models import make
from bench.prediction_summary import plot, summary
from bench.prediction_timer import Timer
from hwprune.artifact import atomic_write_text
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.planner.adaptive import Sampler
from hwprune.planner.prediction import predict, random_widths
from hwprune.planner.residual import Residual
from hwprune.planner.workbench import Workbench, measure_profile
from hwprune.target import Target, load_target

MODELS = "resnet18,resnet50,mobilenet_v2,vgg16,densenet121"
#: Networks timed in one interleaved run, besides the dense one.
BATCH = 5
#: Seed of the networks that calibrate, over that of those that are judged.
CALIBRATION_SEED = 1_000_003


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--configs", type=int, default=30, help="networks judged per model")
    parser.add_argument("--calibration", type=int, default=6, help="thinned networks behind the residual")
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", default="table", help="care of the kernel measurements")
    parser.add_argument("--tables", type=Path, default=None)
    parser.add_argument("--bound", type=float, default=0.02, help="bound of the interpolation error")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds of measuring kernels per model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile-only", action="store_true", help="measure kernels, judge later")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/prediction.json"))
    options = parser.parse_args()
    target = load_target(options.target, threads=options.threads)
    state = State.load(options.out.with_suffix(".state.json"), options, target)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for name in options.models.split(","):
            one_model(name, target, options, state.of(name), state, pool)
            finish(options, state)
    finish(options, state, show=True)


@dataclass
class State:
    """What a run has done, on disk after every step."""

    path: Path
    key: dict[str, Any]
    models: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @staticmethod
    def load(path: Path, options: argparse.Namespace, target: Target) -> State:
        """Go on with a run of the same options; another run's state is left alone."""
        key = {k: getattr(options, k) for k in ("configs", "calibration", "threads", "profile", "seed")}
        key["target"] = target.name
        if path.is_file():
            found = json.loads(path.read_text())
            if found["key"] != key:
                sys.exit(f"{path} belongs to a run with {found['key']}: remove it, or name another --out")
            return State(path, key, found["models"])
        return State(path, key)

    def of(self, name: str) -> dict[str, Any]:
        return self.models.setdefault(name, {})

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.path, json.dumps({"key": self.key, "models": self.models}) + "\n")


def one_model(
    name: str,
    target: Target,
    options: argparse.Namespace,
    done: dict[str, Any],
    state: State,
    pool: ProcessPoolExecutor,
) -> None:
    """All steps for one model; those that ``done`` has are left out."""
    model, inputs = make(name, options.seed)
    captured = capture(model, inputs)
    bench = Workbench.open(
        captured,
        analyse(captured),
        target,
        profile=measure_profile(options.profile),
        tables=options.tables,
        seed=options.seed,
        progress=Teller(name),
    )
    if "profile" not in done:
        begin = time.monotonic()
        sampler = Sampler(
            bench.model,
            bench.measure_kernels,
            bound=options.bound,
            budget_s=options.budget,
            seed=options.seed,
        )
        sampled = sampler.run(_table_if_any(bench))
        done["profile"] = {
            "seconds": time.monotonic() - begin,
            "kernels": sampled.kernels,
            "error": sampled.error,
            "bound": sampled.bound,
            "rows": len(sampled.table),
        }
        state.save()
    if options.profile_only:
        return
    table = bench.load_table()
    dense = bench.model.dense
    timer = Timer(bench, target, options.seed, pool)
    if "calibration" not in done:
        generator = np.random.default_rng(options.seed + CALIBRATION_SEED)
        chosen = [random_widths(bench.model.domains, generator) for _ in range(options.calibration)]
        ratios, pace_ns = timer.time(chosen)
        measured = [ratio * pace_ns for ratio in ratios]
        done["calibration"] = {"pace_ns": pace_ns, "widths": [dense, *chosen], "measured_ns": measured}
        state.save()
    calibration = done["calibration"]
    residual = Residual.fit(
        [bench.model.predict(w, table) for w in calibration["widths"]], calibration["measured_ns"]
    )
    done["residual"] = {
        "us_per_kernel": residual.launch_ns / 1e3,
        "factor": residual.factor,
        "ns_per_byte": residual.byte_ns,
        "spread": residual.spread,
    }
    if "configs" not in done:
        generator = np.random.default_rng(options.seed)
        drawn = [random_widths(bench.model.domains, generator) for _ in range(options.configs)]
        done["configs"] = [
            {"widths": w, **vars(predict(bench.model, w, table, residual)), "measured_ns": None}
            for w in drawn
        ]
        state.save()
    while due := [config for config in done["configs"] if config["measured_ns"] is None][:BATCH]:
        ratios, _ = timer.time([config["widths"] for config in due])
        for config, ratio in zip(due, ratios[1:], strict=True):
            config["measured_ns"] = ratio * calibration["pace_ns"]
            config["dense_ns"] = ratios[0] * calibration["pace_ns"]
            error = config["latency_ns"] / config["measured_ns"] - 1
            print(f"{name}: {config['measured_ns'] / 1e6:.3f} ms, predicted {error:+.1%}", file=sys.stderr)
        state.save()


def _table_if_any(bench: Workbench) -> Any:
    return bench.load_table() if (bench.directory / "manifest.json").is_file() else None


def finish(options: argparse.Namespace, state: State, *, show: bool = False) -> None:
    """Write what there is so far; the plot beside it."""
    rows = [
        {"model": name, **{k: v for k, v in config.items() if k != "widths"}, "widths": config["widths"]}
        for name, done in state.models.items()
        for config in done.get("configs", ())
        if config["measured_ns"] is not None
    ]
    if not rows:
        return
    about = {name: _about(done) for name, done in state.models.items()}
    write_result(options.out, summary(rows, about), rows, as_json=options.json, quiet=not show)
    plot(rows, options.out.with_suffix(".svg"))


def _about(done: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a model besides its rows: how many networks calibrate, not which."""
    kept = {k: v for k, v in done.items() if k not in ("configs", "calibration")}
    if "calibration" in done:
        kept["calibration"] = {
            "networks": len(done["calibration"]["widths"]),
            "pace_ns": done["calibration"]["pace_ns"],
        }
    return kept


if __name__ == "__main__":
    main()
