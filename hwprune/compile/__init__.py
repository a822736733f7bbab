"""From a :class:`~hwprune.latency.program.Program` to a TVM module for the target.

Importing this package imports neither TVM nor the modules below; names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwprune.compile.bundle import Bundle, load_bundle
    from hwprune.compile.compiled import CompiledModule, compile_program
    from hwprune.compile.describe import Description, describe
    from hwprune.compile.kernel_library import KernelLibrary, build_kernel_library
    from hwprune.compile.kernel_runner import KernelRunner
    from hwprune.compile.pipeline import pipeline_hash
    from hwprune.compile.program_library import build_program_library
    from hwprune.compile.tvm_default import compile_tvm_default

__all__ = [
    "Bundle",
    "CompiledModule",
    "Description",
    "KernelLibrary",
    "KernelRunner",
    "build_kernel_library",
    "build_program_library",
    "compile_program",
    "compile_tvm_default",
    "describe",
    "load_bundle",
    "pipeline_hash",
]

_HOME = {
    "Bundle": "bundle",
    "CompiledModule": "compiled",
    "Description": "describe",
    "KernelLibrary": "kernel_library",
    "KernelRunner": "kernel_runner",
    "build_kernel_library": "kernel_library",
    "build_program_library": "program_library",
    "compile_program": "compiled",
    "compile_tvm_default": "tvm_default",
    "describe": "describe",
    "load_bundle": "bundle",
    "pipeline_hash": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
