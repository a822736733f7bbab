"""Seconds and memory that the repair without training takes on large networks.

    python -m bench.fitting                                   # vgg16_bn, resnet50, mobilenet_v2 at 224
    python -m bench.fitting --networks resnet50 --methods least_squares,least_squares:memory_gb=8 --resume

Every group of the network loses every other unit; the layers are then fitted to the dense network's, and
BatchNorm is measured again, with the options as they are by default. Each fit has a process of its own.
Images are synthetic (normal noise) and weights random, as in :mod:`bench.scoring`: they change neither
time nor memory, and errors of fits on noise say nothing about fits on images. ``fit_mb`` is how much the
process held at most beyond what it held before the fit (``before_mb``: interpreter, both networks, graph).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.apart import in_process, memory_mb
from bench.common import say, write_result
from bench.scoring import Images, Setting
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import HwpruneError
from hwprune.repair import RepairOptions
from hwprune.repair.after_cut import Origin, repair_cut
from hwprune.repair.options import read_repair
from hwprune.surgery import cut_module

#: What no fit may need.
LIMIT_MB = 4096.0


def measure(method: str, setting: Setting) -> dict[str, Any]:
    """The row of one repair (as ``RepairOptions.label`` has it) of one network, measured in this process."""
    torch.set_num_threads(setting.threads)
    options = read_repair(method).model_copy(update={"examples": setting.images})
    row: dict[str, Any] = {"network": setting.network, "method": method, "images": setting.images}
    captured = capture(setting.build(), torch.randn(2, *setting.shape))
    deps = analyse(captured)
    keep = {group.name: list(range(0, group.size, 2)) for group in deps.groups}
    model = cut_module(captured.model, deps, keep)
    origin = Origin(captured.model, captured, deps, keep)
    row["before_mb"] = memory_mb("VmRSS")
    start = time.perf_counter()
    try:
        report = repair_cut(model, origin, Images(setting), options)
    except (HwpruneError, MemoryError, RuntimeError) as error:
        return row | {"error": str(error).split("\n", 1)[0], "seconds": None}
    row |= {"seconds": time.perf_counter() - start, "layers": len(report.layers), "error": None}
    peak = memory_mb("VmHWM")
    return row | {"peak_mb": peak, "fit_mb": peak - row["before_mb"]}


def summary(rows: Sequence[dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """The figures of the claim: every fit comes to an end, within the memory where it is not given more."""
    done = [row for row in rows if row["error"] is None and "memory_gb" not in row["method"]]
    failed = [f"{row['network']} {row['method']}" for row in rows if row["error"] is not None]
    return {
        "shape": setting.shape,
        "images": setting.images,
        "threads": setting.threads,
        "activations_gb": RepairOptions().memory_gb,
        "data": "synthetic images, random weights",
        "failed": failed,
        "most_mb": max((row["peak_mb"] for row in done), default=None),
        "below_4_gb": not failed and all(row["peak_mb"] <= LIMIT_MB for row in done),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="vgg16_bn,resnet50,mobilenet_v2")
    parser.add_argument("--methods", default="least_squares,scales")
    parser.add_argument("--shape", default="3x224x224")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=RepairOptions().examples)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=7200.0)
    parser.add_argument("--resume", action="store_true", help="keep the rows of as many images in --out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/fitting.json"))
    options = parser.parse_args(arguments)
    shape = tuple(int(side) for side in options.shape.split("x"))
    known = earlier(options.out, options.images) if options.resume else {}
    rows: list[dict[str, Any]] = []
    wanted = [(n, m) for n in options.networks.split(",") for m in options.methods.split(",")]
    for network, method in wanted:
        sizes = {name: getattr(options, name) for name in ("classes", "images", "batch", "threads")}
        setting = Setting(network=network, shape=shape, **sizes)
        row = {"network": network, "method": method, "seconds": None, "peak_mb": None}
        row |= known.get((network, method)) or in_process(measure, method, setting, limit_s=options.limit_s)
        rows.append(row)
        say(f"{network} {method}: {row['error'] or '{seconds:.0f} s, {peak_mb:.0f} MB'.format(**row)}")
        last = len(rows) == len(wanted)
        write_result(options.out, summary(rows, setting), rows, as_json=options.json, quiet=not last)


def earlier(path: Path, images: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of an earlier run, with as many images, that came to an end."""
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    done = [row for row in rows if row["error"] is None and row["images"] == images]
    return {(row["network"], row["method"]): row for row in done}


if __name__ == "__main__":
    main()
