"""Seconds and memory that each importance criterion takes to score a network.

    python -m bench.scoring                                   # all criteria on resnet50, 64 images of 224x224
    python -m bench.scoring --criteria l1,taylor2019:form=gate --images 16 --resume

Each criterion scores in a process of its own. Images are synthetic (normal noise) and weights random, with
BatchNorm statistics measured on a batch of it: neither time nor memory depends on what they show.
``seconds`` is the scoring alone; ``before_mb`` is the resident memory when it begins (interpreter,
network, graph), ``peak_mb`` the most that the process ever held.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.apart import in_process, memory_mb
from bench.common import say, torchvision_models, write_result
from bench.coverage_alive import enliven
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import HwpruneError
from hwprune.importance import available, describe, score

#: What no criterion may need.
LIMIT_MB = 8192.0


@dataclass(frozen=True)
class Setting:
    """What is scored, and with how much data.

    ``network`` is a name of torchvision, or ``module:factory``; ``shape`` is that of one image; the
    network makes scores of ``classes`` classes.
    """

    network: str = "resnet50"
    shape: tuple[int, ...] = (3, 224, 224)
    classes: int = 1000
    images: int = 64
    batch: int = 16
    threads: int = 1
    seed: int = 0

    def build(self) -> nn.Module:
        """The network, with random weights and BatchNorm statistics of a batch of noise."""
        torch.manual_seed(self.seed)
        module, _, factory = self.network.partition(":")
        if factory:
            model = getattr(importlib.import_module(module), factory)()
        else:
            model = torchvision_models().get_model(self.network, weights=None)
        enliven(model, (torch.empty(1, *self.shape),), self.seed)
        return model


class Images:
    """Labelled noise, made anew in every pass: it takes the memory of a batch."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        s = self._setting
        generator = torch.Generator().manual_seed(s.seed)
        for start in range(0, s.images, s.batch):
            count = min(s.batch, s.images - start)
            labels = torch.randint(s.classes, (count,), generator=generator)
            yield torch.randn(count, *s.shape, generator=generator), labels


def measure(criterion: str, setting: Setting) -> dict[str, Any]:
    """The row of one criterion (``name`` or ``name:parameter=value``), measured in this process."""
    torch.set_num_threads(setting.threads)
    about = describe(criterion.partition(":")[0])
    row: dict[str, Any] = {"criterion": criterion, "data": about.data_need, "seconds": None}
    captured = capture(setting.build(), torch.randn(2, *setting.shape))
    deps = analyse(captured)
    data = None if about.data_need == "none" else Images(setting)
    batches = -(-setting.images // setting.batch)
    row["before_mb"] = memory_mb("VmRSS")
    start, processor = time.perf_counter(), time.process_time()
    try:
        found = score(captured, deps, criterion, data, batches=batches)
    except (HwpruneError, MemoryError, RuntimeError) as error:
        row["error"] = str(error).split("\n", 1)[0]
    else:
        row["seconds"] = time.perf_counter() - start
        row["processor_s"] = time.process_time() - processor
        row["units"] = sum(map(len, found.values()))
        row["error"] = None
    row["peak_mb"] = memory_mb("VmHWM")
    return row


def row_of(criterion: str, setting: Setting, limit_s: float) -> dict[str, Any]:
    """:func:`measure` in a process of its own."""
    need = describe(criterion.partition(":")[0]).data_need
    failed = {"criterion": criterion, "data": need, "seconds": None, "peak_mb": None}
    return failed | in_process(measure, criterion, setting, limit_s=limit_s)


def summary(rows: Sequence[Mapping[str, Any]], setting: Setting) -> dict[str, Any]:
    """The figures of the claim: nothing fails, nothing takes more memory than allowed."""
    timed = [row for row in rows if row["seconds"] is not None]
    slowest = max(timed, key=lambda row: row["seconds"], default=None)
    hungriest = max(timed, key=lambda row: row["peak_mb"], default=None)
    return {
        **asdict(setting),
        "data": "synthetic images and labels, random weights",
        "criteria": len(rows),
        "failed": [row["criterion"] for row in rows if row["seconds"] is None],
        "slowest": None if slowest is None else slowest["criterion"],
        "slowest_s": None if slowest is None else slowest["seconds"],
        "hungriest": None if hungriest is None else hungriest["criterion"],
        "most_mb": None if hungriest is None else hungriest["peak_mb"],
        "below_8_gb": len(timed) == len(rows) and all(row["peak_mb"] <= LIMIT_MB for row in timed),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--criteria", default=",".join(available()), help="name or name:parameter=value")
    parser.add_argument("--network", default=Setting.network)
    parser.add_argument("--shape", default="x".join(map(str, Setting.shape)))
    for name in ("classes", "images", "batch", "threads", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Setting, name))
    parser.add_argument("--limit-s", type=float, default=3600.0)
    parser.add_argument("--resume", action="store_true", help="keep the rows of the same setting in --out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/scoring.json"))
    options = parser.parse_args(arguments)
    setting = Setting(
        network=options.network,
        shape=tuple(int(side) for side in options.shape.split("x")),
        **{name: getattr(options, name) for name in ("classes", "images", "batch", "threads", "seed")},
    )
    known = earlier(options.out, setting) if options.resume else {}
    wanted = options.criteria.split(",")
    rows: list[dict[str, Any]] = []
    for number, criterion in enumerate(wanted):
        row = known.get(criterion) or row_of(criterion, setting, options.limit_s)
        rows.append(row)
        last = number + 1 == len(wanted)
        if criterion not in known:
            took = row["error"] or f"{row['seconds']:.1f} s, {row['peak_mb']:.0f} MB"
            say(f"{criterion}: {took}")
        if last or criterion not in known:
            write_result(options.out, summary(rows, setting), rows, as_json=options.json, quiet=not last)


def earlier(path: Path, setting: Setting) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run of the same setting that came to an end."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())
    same = json.loads(json.dumps(asdict(setting)))
    if any(found["summary"].get(key) != value for key, value in same.items()):
        return {}
    return {row["criterion"]: row for row in found["rows"] if row["seconds"] is not None}


if __name__ == "__main__":
    main()
