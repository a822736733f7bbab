"""Targets: what a device is, for the compiler, the solver and the profiler.

A target is a TOML file in ``targets/``. ``host`` is resolved on the machine that reads it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwprune.errors import TargetError

#: SIMD instruction sets: (float32 lanes, vector registers that a register tile may fill). Of
#: NEON's 32 a tile may fill 24: its multiply-adds take no operand from memory, so the inputs that
#: are being multiplied need registers as well, and a larger tile would be spilled.
ISA: dict[str, tuple[int, int]] = {
    "avx512": (16, 32),
    "avx2": (8, 16),
    "neon": (4, 24),
    "neon8": (8, 14),  # blocks of two registers
    "scalar": (1, 16),
}


#: The pipeline of targets whose backend is ONNX Runtime; their files need not name it.
ONNX_PIPELINE = "onnx-graph"

_EXAMPLES = "correct the file; `hwprune targets host` shows all keys of a target that works"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Alignment(_Strict):
    """Multiples that kept channel counts must have, per layer kind, for one dtype."""

    conv2d: int = Field(1, ge=1)
    depthwise: int = Field(1, ge=1)
    linear: int = Field(1, ge=1)


class Target(_Strict):
    """A resolved target.

    Attributes
    ----------
    name
        Name of the TOML file without its ending.
    kind
        Family of back ends: ``cpu``, ``cuda``, ``edge`` or ``fpga``.
    backend
        Who builds and runs kernels: ``tvm``, or ``onnxruntime`` for those who deploy with that.
    tvm
        TVM target dictionary, passed on as it is; empty for ``onnxruntime``.
    isa
        Key of :data:`ISA` (CPU targets); ``"auto"`` in a file means: ask this machine.
    threads
        Threads of the compiled module (and so of every measurement).
    pipeline
        Name of the compile pipeline.
    runner
        How kernels reach the device: ``local``, ``rpc``, ``carry``, ``emulate``, ``simulate``.
    provenance
        What the numbers of this target are: ``measured``, ``emulated``, ``simulated``,
        ``estimated``. Different kinds are never mixed.
    unit
        Unit of those numbers: ``ns``, ``instructions`` or ``cycles``.
    winograd
        Whether a search may choose Winograd convolution, which rounds more (up to 1e-3 of the
        largest output instead of 1e-4).
    alignment
        Per dtype (``float32``): multiples per layer kind.
    """

    format: Literal[1] = 1
    name: str
    description: str = ""
    kind: Literal["cpu", "cuda", "edge", "fpga"]
    backend: Literal["tvm", "onnxruntime"] = "tvm"
    tvm: dict[str, Any]
    isa: str = "scalar"
    threads: int = Field(1, ge=1)
    pipeline: str = "cpu-packed"
    runner: Literal["local", "rpc", "carry", "emulate", "simulate"] = "local"
    provenance: Literal["measured", "emulated", "simulated", "estimated"] = "measured"
    unit: Literal["ns", "instructions", "cycles"] = "ns"
    winograd: bool = True
    alignment: dict[str, Alignment] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _of_backend(cls, data: Any) -> Any:
        """ONNX Runtime has a pipeline of its own, and no use for a TVM target."""
        if isinstance(data, dict) and data.get("backend") == "onnxruntime":  # pyright: ignore[reportUnknownMemberType]
            return {"tvm": {}, "pipeline": ONNX_PIPELINE, **data}
        return data  # pyright: ignore[reportUnknownVariableType]

    @property
    def simd_lanes(self) -> int:
        """float32 lanes of one vector register."""
        return ISA[self.isa][0]

    @property
    def vector_registers(self) -> int:
        """Vector registers that a register tile may fill."""
        return ISA[self.isa][1]

    def multiple(self, layer: str, dtype: str = "float32") -> int:
        """Alignment for ``conv2d``, ``depthwise`` or ``linear``; 1 where the file is silent."""
        alignment = self.alignment.get(dtype)
        return int(getattr(alignment, layer)) if alignment else 1


def targets_directory() -> Path:
    """Where the shipped target files lie."""
    package = Path(__file__).resolve().parent
    installed = package / "_targets"
    return installed if installed.is_dir() else package.parent / "targets"


def available() -> list[str]:
    """Names of the shipped targets."""
    return sorted(p.stem for p in targets_directory().glob("*.toml"))


def load_target(name_or_path: str | Path, *, threads: int | None = None) -> Target:
    """Load a target by shipped name or by the path of a TOML file.

    Raises
    ------
    TargetError
        Unknown name (with the nearest ones), unknown key (with the nearest valid one),
        malformed file, or an instruction set this machine cannot name.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = targets_directory() / f"{name_or_path}.toml"
        if not path.is_file():
            near = difflib.get_close_matches(str(name_or_path), available(), n=3, cutoff=0.3)
            raise TargetError(
                f"unknown target '{name_or_path}'",
                hint=f"use one of {', '.join(near or available())}, or the path of a .toml file",
            )
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise TargetError(f"target file {path} does not exist", hint="check the path") from error
    except OSError as error:
        raise TargetError(
            f"target file {path} cannot be read: {error.strerror}", hint="check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"target file {path} is not valid TOML: {error}", hint=_EXAMPLES) from error
    data.setdefault("name", path.stem)
    if threads is not None:
        data["threads"] = threads
    return _resolve(_validate(data, path))


def _validate(data: dict[str, Any], path: Path) -> Target:
    try:
        return Target.model_validate(data)
    except ValidationError as error:
        lines: list[str] = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                model = Alignment if where.startswith("alignment.") else Target
                key = str(problem["loc"][-1])
                near = difflib.get_close_matches(key, list(model.model_fields), n=1, cutoff=0.0)
                lines.append(f"unknown key '{where}' (nearest valid: '{near[0]}')")
            else:
                lines.append(f"'{where}': {problem['msg'].lower()}")
        raise TargetError(f"target file {path}: " + "; ".join(lines), hint=_EXAMPLES) from error


def _resolve(target: Target) -> Target:
    if target.isa == "auto":
        return _resolve_host(target)
    if target.kind == "cpu" and target.isa not in ISA:
        raise TargetError(
            f"target '{target.name}': unknown isa '{target.isa}'", hint=f"one of {', '.join(ISA)}, auto"
        )
    return target


def _resolve_host(target: Target) -> Target:
    """Fill in instruction set, CPU name, cores and alignment of the machine we run on."""
    flags = cpu_flags()
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
        isa, tvm = "avx512", {"kind": "llvm", "mcpu": "skylake-avx512"}
    elif {"avx2", "fma"} <= flags:
        isa, tvm = "avx2", {"kind": "llvm", "mcpu": "core-avx2"}
    elif "asimd" in flags:
        isa, tvm = "neon", {"kind": "llvm", "mcpu": "generic", "mattr": ["+neon"]}
    else:
        isa, tvm = "scalar", {"kind": "llvm"}
    lanes = ISA[isa][0]
    cores = _require_cores(target)
    aligned = Alignment(conv2d=lanes, depthwise=lanes, linear=lanes)
    return target.model_copy(
        update={
            "isa": isa,
            "tvm": {**tvm, "num-cores": cores, **target.tvm} if target.backend == "tvm" else {},
            "alignment": target.alignment or {"float32": aligned},
        }
    )


def _require_cores(target: Target) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if target.threads > cores:
        raise TargetError(
            f"target '{target.name}' asks for {target.threads} threads but this machine gives {cores}",
            hint=f"use --threads {cores} or fewer",
        )
    return cores


def cpu_flags() -> set[str]:
    """Feature flags of the first processor as the operating system names them (Linux)."""
    try:
        return flags_in(Path("/proc/cpuinfo").read_text())
    except OSError:
        return set()


def flags_in(cpuinfo: str) -> set[str]:
    """Feature flags of the first processor of a ``/proc/cpuinfo``."""
    for line in cpuinfo.splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()


def required_flags(target: Target) -> set[str]:
    """Feature flags, as :func:`cpu_flags` names them, that a CPU needs to run a target's code."""
    needs = {
        "avx512": {"avx512f", "avx512bw"},
        "avx2": {"avx2", "fma"},
        "neon": {"asimd"},
        "neon8": {"asimd"},
    }
    return needs.get(target.isa, set()) if target.kind == "cpu" else set()


def missing_flags(target: Target, flags: set[str]) -> set[str]:
    """Feature flags that a CPU target needs and that are not among ``flags``."""
    return required_flags(target) - flags


def require_runnable(target: Target) -> None:
    """Refuse a CPU target whose instructions or cores this machine lacks, before anything is run.

    Raises
    ------
    TargetError
        Naming what is missing.
    """
    missing = missing_flags(target, cpu_flags())
    if missing:
        raise TargetError(
            f"target '{target.name}' needs {', '.join(sorted(missing))}, which this machine lacks",
            hint="choose another target, or reach the device with a remote runner",
        )
    if target.kind == "cpu":
        _require_cores(target)
