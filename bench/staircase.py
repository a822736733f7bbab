"""Latency of one layer over its output width, one channel at a time: the staircase of the SIMD block.

    python -m bench.staircase

A 3x3 convolution (64 channels in, 28x28) and a 1x1 convolution (256 in, 14x14), each with ReLU, at
every width from 8 to 256. All kernels are built first; then each is timed in a pinned process once a
round, in an order drawn anew for every round, so that drift of the machine cannot look like a step.
Right behind each kernel one and the same sentinel kernel of its layer is timed: a processor's clock may
change by a tenth from moment to moment, and time in units of the sentinel's does not. Of each look
counts the least sample, as disturbances only add; a kernel's time is the median of its rounds. How much
the medians of odd and even rounds differ says how large noise is.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import write_result
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.measure.build import BuildJob, BuildPool
from hwprune.measure.runners.local import LocalRunner
from hwprune.measure.stopping import MeasureProfile, Stopping
from hwprune.target import load_target, require_runnable

#: Name: channels in, size of the map, size of the filter.
LAYERS = {"3x3, 64 in, 28x28": (64, 28, 3), "1x1, 256 in, 14x14": (256, 14, 1)}
#: One look at a kernel in one round.
LOOK = MeasureProfile("staircase", 1e-3, 6, 3, Stopping(6, 0.0, 1.0, 0.02), 1, 1, 1.0, 20.0)
#: Calls of the kernel in a library, so that the cost of entering it vanishes.
COPIES = 8
#: A rise of the time from one width to the next by more than this is a step, if it exceeds noise.
STEP = 0.04


def layer(channels: int, size: int, kernel: int, width: int) -> KernelSpec:
    """Convolution and ReLU with ``width`` output channels."""
    pad = kernel // 2
    attributes = (("dilation", (1, 1)), ("groups", 1), ("padding", (pad,) * 4), ("stride", (1, 1)))
    inputs = (
        KernelInput((1, channels, size, size), "data"),
        KernelInput((width, channels, kernel, kernel), "weight"),
        KernelInput((width,), "weight"),
    )
    return KernelSpec(inputs, (KernelOp("conv2d", (0, 1, 2), attributes), KernelOp("relu", (3,))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--widths", default="8:256", help="first:last, or first:last:step")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/staircase.json"))
    options = parser.parse_args()
    target = load_target(options.target, threads=options.threads)
    require_runnable(target)
    first, last, *step = (int(part) for part in options.widths.split(":"))
    widths = range(first, last + 1, *step)
    block = target.multiple("conv2d")
    with tempfile.TemporaryDirectory(prefix="hwprune-staircase-") as scratch:
        jobs = {
            (name, width): BuildJob(layer(*shape, width), Path(scratch) / f"{number}-{width}.so", COPIES)
            for number, (name, shape) in enumerate(LAYERS.items())
            for width in widths
        }
        pool = BuildPool(target)
        try:
            for done, (job, failure) in enumerate(pool.build(list(jobs.values())), 1):
                if failure is not None:
                    sys.exit(f"{job.spec.label()}: {failure}")
                if done % 50 == 0:
                    print(f"built {done} of {len(jobs)}", file=sys.stderr, flush=True)
        finally:
            pool.close()
        rows = time_all(jobs, options.threads, options.rounds, options.seed)
    result = summary(rows, block)
    write_result(options.out, result, rows, as_json=options.json, quiet=not options.json)
    plot(rows, block, options.out.with_suffix(".svg"))
    if not options.json:
        for name, found in result["layers"].items():
            print(name, *(f"{key}: {value}" for key, value in found.items()), sep="\n  ")
        print(f"written to {options.out} and {options.out.with_suffix('.svg')}")


def time_all(
    jobs: dict[tuple[str, int], BuildJob], threads: int, rounds: int, seed: int
) -> list[dict[str, Any]]:
    """Every kernel once a round, in random order."""
    minima: dict[tuple[str, int], list[float]] = {key: [] for key in jobs}
    beside: dict[tuple[str, int], list[float]] = {key: [] for key in jobs}
    widest = {name: max(width for other, width in jobs if other == name) for name in LAYERS}
    order = random.Random(seed)
    runner = LocalRunner(threads)
    try:
        for number in range(rounds):
            for key in order.sample(sorted(jobs), len(jobs)):
                minima[key].append(min(runner.measure(jobs[key].path, LOOK).samples_ns))
                sentinel = jobs[key[0], widest[key[0]]]
                beside[key].append(min(runner.measure(sentinel.path, LOOK).samples_ns))
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        runner.close()
    usual = {
        name: statistics.median(x for key, found in beside.items() if key[0] == name for x in found)
        for name in widest
    }
    corrected = {
        key: [t * usual[key[0]] / s for t, s in zip(minima[key], beside[key], strict=True)] for key in jobs
    }
    return [
        {
            "layer": name,
            "width": width,
            "us": statistics.median(corrected[name, width]) / 1e3,
            "raw_median_us": statistics.median(minima[name, width]) / 1e3,
            "round_minima_us": [round(x / 1e3, 4) for x in corrected[name, width]],
        }
        for name, width in sorted(jobs)
    ]


def summary(rows: Sequence[dict[str, Any]], block: int) -> dict[str, Any]:
    """Whether the staircase is what the solver takes it for, per layer and at worst."""
    layers = {name: layer_summary([r for r in rows if r["layer"] == name], block) for name in _names(rows)}
    worst = [found["worst_unaligned_over_next_multiple"] for found in layers.values()]
    return {
        "block": block,
        "monotone_violations": sum(len(found["monotone_violations"]) for found in layers.values()),
        "worst_unaligned_over_next_multiple": max((w for w in worst if w is not None), default=None),
        "layers": layers,
    }


def layer_summary(rows: Sequence[dict[str, Any]], block: int) -> dict[str, Any]:
    """One layer's staircase.

    ``noise`` is the 95th percentile, over widths, of the difference between a kernel's odd and even
    rounds.
    A *monotone violation* is a multiple of the block that is quicker than the multiple before by more
    than that. ``steps`` are the widths whose time rises by more than :data:`STEP` (and noise) over
    the width before.
    """
    times = {r["width"]: r["us"] for r in rows}
    noise = max(0.01, float(np.percentile([_gap(r["round_minima_us"]) for r in rows], 95)))
    multiples = [w for w in sorted(times) if w % block == 0]
    over = {w: times[w] / times[w + -w % block] for w in times if w % block and w + -w % block in times}
    worst = max(over, key=lambda w: over[w], default=None)
    rise = max(STEP, 2 * noise)
    return {
        "noise": noise,
        "monotone_violations": [
            [a, b, times[b] / times[a]]
            for a, b in itertools.pairwise(multiples)
            if times[b] < times[a] * (1 - noise)
        ],
        "worst_unaligned_over_next_multiple": None if worst is None else over[worst],
        "worst_unaligned_width": worst,
        "above_1.1": sorted(w for w, ratio in over.items() if ratio > 1.1),
        "steps": [w for w in sorted(times) if w - 1 in times and times[w] > times[w - 1] * (1 + rise)],
    }


def _gap(minima: Sequence[float]) -> float:
    """How far the medians of a kernel's odd and even rounds are apart."""
    odd, even = (statistics.median(minima[start::2] or minima) for start in (0, 1))
    return abs(odd - even) / min(odd, even)


def _names(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(r["layer"] for r in rows))


def plot(rows: Sequence[dict[str, Any]], block: int, path: Path) -> None:
    """Both layers over width; multiples of the block are marked."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "hwprune"  # the same numbers give the same file
    from matplotlib import pyplot as plt

    names = _names(rows)
    figure, axes = plt.subplots(len(names), 1, figsize=(9, 3.2 * len(names)), squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        own = [r for r in rows if r["layer"] == name]
        widths, times = [r["width"] for r in own], [r["us"] for r in own]
        axis.plot(widths, times, color="#2b6cb0", linewidth=1.2, drawstyle="steps-mid")
        aligned = [(w, t) for w, t in zip(widths, times, strict=True) if w % block == 0]
        axis.plot(
            *zip(*aligned, strict=True), "o", color="#c05621", markersize=4, label=f"multiples of {block}"
        )
        axis.set_title(name, loc="left")
        axis.set_xlabel("output channels")
        axis.set_ylabel("microseconds")
        axis.set_xticks(range(0, max(widths) + 1, 2 * block))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
