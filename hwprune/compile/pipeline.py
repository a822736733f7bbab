"""The pipeline hash: what ties a latency table to the code generator that made its kernels."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

from hwprune.target import Target

#: Modules of this package that do not influence generated code.
NOT_CODE_GENERATION = frozenset(
    (
        "__init__.py",
        "bundle.py",
        "compiled.py",
        "harness_run.py",
        "kernel_runner.py",
        "link.py",
        "pipeline.py",
        "vm_runtime.py",
    )
)


def source_files() -> list[Path]:
    """Modules whose text is part of the hash, sorted by name."""
    folder = Path(__file__).resolve().parent
    return sorted(p for p in folder.glob("*.py") if p.name not in NOT_CODE_GENERATION)


@cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def pipeline_hash(target: Target) -> str:
    """Twelve hex digits that change whenever generated code for ``target`` could change.

    They cover the code generator's source, the versions of TVM and its FFI, the TVM target (the
    number of cores of the machine excepted), instruction set, threads and pipeline name.
    """
    description = {
        "sources": _sources_digest(),
        "tvm": version("apache-tvm"),
        "tvm_ffi": version("apache-tvm-ffi"),
        "target": {k: v for k, v in target.tvm.items() if k != "num-cores"},
        "isa": target.isa,
        "threads": target.threads,
        "pipeline": target.pipeline,
        "winograd": target.winograd,
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
