"""What every benchmark shares: the shape of its result, and torchvision's models."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from hwprune.artifact import atomic_write_text
from hwprune.measure.device import describe_device
from hwprune.measure.provenance import git_state, versions

_keep: list[torch.library.Library] = []


def torchvision_models() -> ModuleType:
    """``torchvision.models`` without torchvision's compiled part, which needs its own torch build."""
    if not _keep:
        schemas = torch.library.Library("torchvision", "DEF")
        schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep.append(schemas)
    import torchvision.models

    return torchvision.models


def command() -> str:
    """How to run this again: the module and its arguments, without where this machine keeps files."""
    name = Path(sys.argv[0]).stem
    return " ".join([f"python -m bench.{name}", *(Path(a).name if "/" in a else a for a in sys.argv[1:])])


def environment() -> dict[str, Any]:
    """The machine, the versions and the command behind a result."""
    return {
        "device": asdict(describe_device()),
        "system": platform.platform(),
        "versions": {**versions(), "torch": torch.__version__},
        "git": git_state(),
        "command": command(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def geomean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(values))))


def write_result(
    path: Path,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    as_json: bool,
    quiet: bool = False,
) -> None:
    """Keep a result as JSON and show it: one object with ``--json``, else a table; or only keep it."""
    result = {"summary": dict(summary), "rows": [dict(r) for r in rows], "environment": environment()}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(result, indent=1) + "\n")
    if quiet:
        return
    if as_json:
        print(json.dumps(result))
        return
    columns = [k for k, v in rows[0].items() if not isinstance(v, list | dict)] if rows else []
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    sizes = [max(len(c), *(len(line[i]) for line in cells)) for i, c in enumerate(columns)]
    print("  ".join(c.ljust(n) for c, n in zip(columns, sizes, strict=True)))
    for line in cells:
        print("  ".join(v.rjust(n) for v, n in zip(line, sizes, strict=True)))
    for key, value in summary.items():
        print(f"{key}: {_cell(value)}")
    print(f"written to {path}")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def say(text: str) -> None:
    """A line of progress on stderr."""
    print(f"{time.strftime('%T')} {text}", file=sys.stderr, flush=True)


class Teller:
    """Progress of long work on stderr, now and then."""

    def __init__(self, name: str, every_s: float = 15.0) -> None:
        self._name, self._every_s, self._last = name, every_s, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._last > self._every_s:
            self._last = time.monotonic()
            say(f"{self._name}: {what[:60]} {done}/{total}")
