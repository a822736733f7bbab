"""The pipeline hash of this backend: what ties its latency tables to how its graphs are made."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hwprune.errors import CompileError, MissingExtraError
from hwprune.onnx_backend.graph import OPSET
from hwprune.onnx_backend.session import CONFIG, PROVIDERS
from hwprune.target import ONNX_PIPELINE, Target

#: Modules of this package that do not influence what is timed.
NOT_EXPORT = frozenset(("__init__.py", "bundle.py", "harness_run.py", "module.py", "pipeline.py"))


def require_onnx_pipeline(target: Target) -> None:
    """Refuse a target that is not for this backend.

    Raises
    ------
    CompileError
        Another backend or pipeline.
    """
    if target.backend != "onnxruntime" or target.pipeline != ONNX_PIPELINE:
        raise CompileError(
            f"target '{target.name}' (backend '{target.backend}', pipeline '{target.pipeline}')"
            " is not built by ONNX Runtime",
            hint=f'backend = "onnxruntime" goes with pipeline = "{ONNX_PIPELINE}"',
        )


@cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parent.glob("*.py")):
        if path.name not in NOT_EXPORT:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def onnx_pipeline_hash(target: Target) -> str:
    """Twelve hex digits over versions, session options, threads and the exporter's source.

    Raises
    ------
    MissingExtraError
        onnx or onnxruntime is not installed.
    """
    try:
        versions = {package: version(package) for package in ("onnx", "onnxruntime", "torch")}
    except PackageNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed, which target '{target.name}' needs",
            hint="pip install 'hwprune[onnx]'",
        ) from error
    description = {
        "backend": "onnxruntime",
        "sources": _sources_digest(),
        **versions,
        "opset": OPSET,
        "options": CONFIG,
        "providers": PROVIDERS,
        "threads": target.threads,
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
