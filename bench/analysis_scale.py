"""How long it takes to find the groups of a network, export included, and how that grows with depth.

    python -m bench.analysis_scale

resnet50 and swin_b at 224x224, and generated networks of 100 to 1,000 layers with weights: residual
blocks of 3x3, depthwise and 1x1 convolutions with batch normalisation, and a concatenation in
every fifth block. Each in a process of its own; the least of a few runs, wall-clock and processor time.
``exponent`` is the slope of the logarithm of seconds over that of layers: 1 is linear.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.common import torchvision_models, write_result
from hwprune.capture import capture
from hwprune.dependency import analyse

NAMED = ("resnet50", "swin_b")
DEPTHS = (100, 200, 300, 500, 700, 1000)
#: Layers with weights in one block of a generated network.
BLOCK = 5


class Block(nn.Module):
    """3x3, depthwise and 1x1 convolution with two BatchNorms, and a shortcut or a concatenation."""

    def __init__(self, channels: int, join: bool) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Sequential(
            nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU()
        )
        self.project = nn.Conv2d(wide + (channels if join else 0), channels, 1)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        return self.project(torch.cat([y, x], 1)) if self.join else x + self.project(y)


def generated(layers: int, channels: int = 8) -> nn.Module:
    """About ``layers`` layers with weights."""
    blocks = [Block(channels, number % 5 == 4) for number in range(layers // BLOCK)]
    return nn.Sequential(nn.Conv2d(3, channels, 3), *blocks, nn.Conv2d(channels, 4, 1)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/analysis_scale.json"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for case in (*NAMED, *(f"generated {depth}" for depth in options.depths.split(","))):
        rows.append(in_process(case, options.runs))
        print(f"{case}: {rows[-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    write_result(options.out, summary(rows), rows, as_json=options.json)


def in_process(case: str, runs: int) -> dict[str, Any]:
    """:func:`measure` in a new process."""
    reader, writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(case, runs, writer))
    process.start()
    writer.close()
    try:
        row = reader.recv()
    except EOFError:
        sys.exit(f"{case}: the process died")
    finally:
        process.join()
    return row


def _child(case: str, runs: int, writer: Connection) -> None:
    torch.set_num_threads(1)
    analyse(
        capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), torch.randn(1, 3, 4, 4))
    )  # imports
    writer.send(measure(case, runs))


def measure(case: str, runs: int) -> dict[str, Any]:
    """Seconds to capture and analyse one network: the least of ``runs``."""
    kind, _, depth = case.partition(" ")
    if depth:
        model, x = generated(int(depth)), torch.randn(1, 3, 8, 8)
    else:
        model, x = torchvision_models().get_model(kind, weights=None).eval(), torch.randn(1, 3, 224, 224)
    best: dict[str, Any] = {}
    for _ in range(runs):
        start, processor = time.perf_counter(), time.process_time()
        captured = capture(model, x)
        exported = time.perf_counter()
        deps = analyse(captured)
        end = time.perf_counter()
        row = {
            "network": case,
            "layers": int(depth) if depth else None,
            "seconds": end - start,
            "capture_s": exported - start,
            "analyse_s": end - exported,
            "processor_s": time.process_time() - processor,
            "nodes": len(captured.graph.graph.nodes),
            "groups": len(deps.groups),
        }
        if not best or row["seconds"] < best["seconds"]:
            best = row
    return best


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the acceptance, from whatever rows there are."""
    seconds = {row["network"]: row["seconds"] for row in rows}
    grown = [(row["layers"], row["seconds"]) for row in rows if row["layers"]]
    slope = np.polyfit(*np.log(np.array(grown)).T, 1)[0] if len(grown) > 1 else None
    return {
        "seconds_resnet50": seconds.get("resnet50"),
        "seconds_swin_b": seconds.get("swin_b"),
        "seconds_1000_layers": seconds.get("generated 1000"),
        "exponent": None if slope is None else float(slope),
    }


if __name__ == "__main__":
    main()
