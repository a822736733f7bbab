"""The JSON file beside a library that says how to call it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwprune.compile.shapes import Shape
from hwprune.target import Target


def write_sidecar(
    path: Path,
    target: Target,
    *,
    copies: int,
    inputs: Sequence[Shape],
    weights: Sequence[Shape],
    about: Mapping[str, Any] | None = None,
) -> None:
    """What a runner must know to call a library: physical shapes (float32), copies, threads.

    ``about`` is for people who look at the file.
    """
    content = {
        "format": 1,
        **(about or {}),
        "threads": target.threads,
        "copies": copies,
        "inputs": [list(shape) for shape in inputs],
        "weights": [list(shape) for shape in weights],
    }
    path.with_suffix(".json").write_text(json.dumps(content) + "\n")
