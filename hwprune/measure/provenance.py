"""Who measured, with which versions, from which command line."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from hwprune.latency.manifest import SweepRecord, TableManifest, target_string
from hwprune.measure.device import Device
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.table_writer import timestamp
from hwprune.target import Target

_PACKAGES = {
    "tvm": "apache-tvm",
    "tvm-ffi": "apache-tvm-ffi",
    "onnxruntime": "onnxruntime",
    "onnx": "onnx",
    "numpy": "numpy",
}


def versions() -> dict[str, str]:
    """Versions of everything that shapes a number, without importing any of it."""
    # Importing the package's front from here would turn the order of its parts around.
    own: str = sys.modules["hwprune"].__version__
    found = {"python": platform.python_version(), "hwprune": own}
    for name, package in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def compiler_versions(kind: str) -> dict[str, str | None]:
    """Version of the compiler behind TVM, which has to be loaded to say it.

    Parameters
    ----------
    kind
        Kind of the TVM target. Only ``llvm`` is known.
    """
    if kind != "llvm":
        return {}
    from hwprune.compile.tvm_api import tvm

    # The major version is all that TVM tells.
    function = tvm.get_global_func("target.llvm_version_major", allow_missing=True)
    return {"llvm": str(function()) if function is not None else None}


def command_line() -> str:
    """How this process was called, without where its program lies."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    module = None if spec is None else spec.name.removesuffix(".__main__")
    program = [Path(sys.argv[0]).name] if module is None else ["python", "-m", module]
    return shlex.join([*program, *sys.argv[1:]])


def git_state() -> str | None:
    """``git describe`` of the checkout hwprune runs from; ``None`` for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def new_manifest(
    target: Target,
    device: Device,
    pipeline: str,
    unit: str,
    kind: str,
    seed: int,
    profile: MeasureProfile | None = None,
    reached: Mapping[str, str] | None = None,
) -> TableManifest:
    """Manifest of one sweep that begins now; the table's writer fills in the checksums.

    Parameters
    ----------
    profile
        With which care it measures.
    reached
        How the device is reached.
    """
    now = timestamp()
    sweep = SweepRecord(
        id=secrets.token_hex(4),
        command=command_line(),
        git=git_state(),
        versions={**versions(), "driver": None},
        seed=seed,
        profile=profile.to_dict() if profile else {},
        started=now,
        reached=dict(reached or {}),
    )
    return TableManifest.model_validate(
        {
            "target": target.model_dump(mode="json"),
            "target_string": target_string(target.tvm),
            "device": device.to_dict(),
            "system": platform.platform(),
            "pipeline": pipeline,
            "unit": unit,
            "provenance": kind,
            "created": now,
            "updated": now,
            "sweeps": (sweep,),
        }
    )
