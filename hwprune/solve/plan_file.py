"""How a plan lies on disk: JSON that people read, edit and compare line by line."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hwprune.artifact import Loaded, load_json, write_json

KIND = "hwprune.plan"
VERSION = 2
#: Version 1 knew neither blocks nor limits; what it says is a plan without them.
OLDEST = 1

#: Lists of these stand one entry per line, without the fields that say nothing.
_ONE_PER_LINE = ("limits", "fleet", "removed_blocks", "groups", "ledger")


def write_plan(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Write a plan's payload: every field on a line, in its order; every group on one line.

    Raises
    ------
    ArtifactError
        The file cannot be written.
    """
    lean = {
        key: [{k: v for k, v in entry.items() if v is not None} for entry in value]
        if key in _ONE_PER_LINE
        else value
        for key, value in payload.items()
    }
    write_json(path, KIND, VERSION, lean, layout=_layout)


def read_plan(path: str | Path) -> Loaded:
    """Payload of a plan of any version that is still read, and whether it was edited by hand.

    Raises
    ------
    ArtifactError
        Missing, truncated, or not a plan of such a version.
    """
    return load_json(path, KIND, VERSION, oldest=OLDEST)


def describe(error: ValidationError, root: type[BaseModel]) -> str:
    """What is wrong with which fields of a plan, with the nearest valid name of an unknown one."""
    lines: list[str] = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown field '{where}'{_nearest(problem['loc'], root)}")
        else:
            lines.append(f"'{where}': {problem['msg'].lower()}")
    return "; ".join(lines[:4])


def _layout(envelope: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for key, value in envelope["payload"].items():
        if key in _ONE_PER_LINE and value:
            entries = ",\n".join(f"      {_inline(entry)}" for entry in value)
            lines.append(f"    {json.dumps(key)}: [\n{entries}\n    ]")
        else:
            lines.append(f"    {json.dumps(key)}: {_inline(value)}")
    head = [f"  {json.dumps(key)}: {_inline(envelope[key])}" for key in ("format", "version", "sha256")]
    payload = ",\n".join(lines)
    return ",\n".join(["{\n" + head[0], *head[1:], f'  "payload": {{\n{payload}\n  }}\n}}'])


def _inline(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _nearest(place: tuple[int | str, ...], root: type[BaseModel]) -> str:
    *outer, field = [part for part in place if isinstance(part, str)]
    model = root
    for part in outer:
        inner = _model_in(model.model_fields[part].annotation) if part in model.model_fields else None
        model = inner or model
    near = difflib.get_close_matches(field, list(model.model_fields), n=1, cutoff=0.4)
    return f" (nearest valid: '{near[0]}')" if near else ""


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model that a field holds, alone, optionally, or many of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union, types.UnionType):
        return next((found for a in get_args(annotation) if (found := _model_in(a)) is not None), None)
    return None
