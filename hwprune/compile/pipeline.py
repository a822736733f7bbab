"""The pipeline hash: what ties a latency table to the code generator that made its kernels."""

from __future__ import annotations

import difflib
import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

from hwprune.errors import CompileError
from hwprune.target import Target

#: Packed channels and register-tiled kernels; the one that ships.
PACKED = "cpu-packed"
#: TVM as it comes, for comparison (:mod:`hwprune.compile.tvm_default`).
TVM_DEFAULT = "tvm-default"
#: Every pipeline, and the one module that makes it where that is not the whole package.
PIPELINES: dict[str, str | None] = {PACKED: None, TVM_DEFAULT: "tvm_default.py"}

#: Modules of this package that do not influence generated code.
NOT_CODE_GENERATION = frozenset(
    (
        "__init__.py",
        "bundle.py",
        "compiled.py",
        "describe.py",
        "fixed_work.py",
        "harness_run.py",
        "kernel_runner.py",
        "link.py",
        "listing.py",
        "metaschedule.py",
        "pipeline.py",
        "remote.py",
        "remote_engines.py",
        "remote_probe.py",
        "remote_program.py",
        "sidecar.py",
        "sketch.py",
        "tvm_default.py",
        "vm_runtime.py",
    )
)


def source_files() -> list[Path]:
    """Modules whose text is part of the hash, sorted by name."""
    folder = Path(__file__).resolve().parent
    return sorted(p for p in folder.glob("*.py") if p.name not in NOT_CODE_GENERATION)


def _require_tvm(target: Target) -> None:
    if target.backend != "tvm":
        raise CompileError(
            f"target '{target.name}' is for the backend '{target.backend}', not for TVM",
            hint='this needs a target with backend = "tvm"',
        )


def known_pipeline(target: Target) -> str:
    """The target's pipeline, if there is one of that name.

    Raises
    ------
    CompileError
        Listing the pipelines.
    """
    _require_tvm(target)
    if target.pipeline not in PIPELINES:
        near = difflib.get_close_matches(target.pipeline, PIPELINES, n=1)
        raise CompileError(
            f"target '{target.name}' asks for the unknown pipeline '{target.pipeline}'"
            + (f" (nearest: '{near[0]}')" if near else ""),
            hint="pipeline is one of " + ", ".join(f'"{name}"' for name in PIPELINES),
        )
    return target.pipeline


def require_pipeline(target: Target, name: str) -> None:
    """Refuse a target whose pipeline is not the one that is about to run.

    Raises
    ------
    CompileError
        Unknown pipeline, or one that works on other things than this function was given.
    """
    if known_pipeline(target) != name:
        what = "whole models only" if target.pipeline == TVM_DEFAULT else "fused kernels"
        raise CompileError(
            f"target '{target.name}': the pipeline '{target.pipeline}' compiles {what}",
            hint=f'use pipeline = "{name}" here; "{TVM_DEFAULT}" is for comparison, through hwprune compile',
        )


@cache
def _sources_digest(module: str | None) -> str:
    digest = hashlib.sha256()
    own = [] if module is None else [Path(__file__).resolve().with_name(module)]
    for path in own or source_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def pipeline_hash(target: Target) -> str:
    """Twelve hex digits that change whenever generated code for ``target`` could change.

    They cover the code generator's source, the versions of TVM and its FFI, the TVM target (the
    number of cores of the machine excepted), instruction set, threads and pipeline name.

    Raises
    ------
    CompileError
        The target is for another backend.
    """
    _require_tvm(target)
    description = {
        "sources": _sources_digest(PIPELINES.get(target.pipeline)),
        "tvm": version("apache-tvm"),
        "tvm_ffi": version("apache-tvm-ffi"),
        "target": {k: v for k, v in target.tvm.items() if k != "num-cores"},
        "isa": [target.isa, target.simd_lanes, target.vector_registers],
        "threads": target.threads,
        "pipeline": target.pipeline,
        "winograd": target.winograd,
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
