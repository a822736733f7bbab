"""Linking object files into a shared object with whatever linker the machine has.

Compiled modules need next to nothing from libc, so a bare linker is enough, for other architectures
too.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hwprune.errors import CompileError

#: ``-m`` of GNU-compatible linkers, by architecture.
_EMULATION = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux"}


@cache
def linker_command(architecture: str) -> tuple[str, ...]:
    """The first linker found that can make shared objects for ``architecture``.

    Raises
    ------
    CompileError
        No linker; the hint names packages.
    """
    emulation = _EMULATION.get(architecture, "elf_x86_64")
    for bare in ("ld.lld", "ld"):
        path = shutil.which(bare)
        if path and (bare == "ld.lld" or emulation in _supported_emulations(path)):
            return (path, "-m", emulation)
    if architecture != host_architecture():
        path = shutil.which(f"{architecture}-linux-gnu-ld")
        if path:
            return (path,)
    else:
        for driver in ("cc", "gcc", "g++", "clang"):
            path = shutil.which(driver)
            if path:
                return (path, "-nostdlib")
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "ld.lld", "-m", emulation)
    native = "a C compiler (gcc or clang), binutils or lld"
    packages = native if architecture == host_architecture() else f"lld or binutils-{architecture}-linux-gnu"
    raise CompileError(
        f"no linker for {architecture} shared objects was found",
        hint=f"install {packages}; or: pip install 'hwprune[cross]' (brings ziglang)",
    )


def _supported_emulations(linker: str) -> str:
    done = subprocess.run([linker, "-V"], capture_output=True, text=True, check=False)
    return done.stdout


def host_architecture() -> str:
    """This machine's, as target triples spell it."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())


def target_architecture(triple: str | None) -> str:
    """Architecture of a target triple; this machine's, if there is none."""
    return triple.split("-")[0] if triple else host_architecture()


def link_shared(objects: Sequence[str], output: Path, architecture: str) -> None:
    """Link ``objects`` into the shared object ``output``.

    Raises
    ------
    CompileError
        The linker is missing or refuses; its own words are passed on.
    """
    command = [*linker_command(architecture), "-shared", "-z", "noexecstack", "-o", str(output), *objects]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(
            f"linking {output.name} failed ({command[0]}): {done.stderr.strip()[:500]}",
            hint="check that the linker matches the target's architecture",
        )
