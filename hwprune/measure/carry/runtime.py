"""The two libraries that compiled code needs on the device."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

from hwprune.compile.link import host_architecture
from hwprune.compile.vm_runtime import runtime_library
from hwprune.errors import ArtifactError, UsageError

#: File names in a bundle, and in a directory given with ``--runtime``.
LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so")
#: ``e_machine`` of ELF files.
_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_PACKAGES = "apache-tvm==0.27.0.post1 and apache-tvm-ffi==0.1.14.post0"


def runtime_files(architecture: str, given: Path | None) -> dict[str, Path]:
    """Where the runtime for an architecture lies, by file name.

    Parameters
    ----------
    given
        A directory with both libraries, searched in depth (unpacked wheels will do). None: those of
        the TVM that is installed here.

    Raises
    ------
    UsageError
        The architecture is another than this machine's and no directory was given, or a library
        is not in it.
    ArtifactError
        A library is for another architecture.
    """
    if given is None:
        if architecture != host_architecture():
            raise UsageError(
                f"a bundle for {architecture} needs the TVM runtime for {architecture}; that of this machine"
                f" is for {host_architecture()}",
                hint=f"unpack the {architecture} wheels of {_PACKAGES} into a directory (pip download"
                f" --no-deps --only-binary=:all: --platform manylinux_2_28_{architecture}, then unzip), and"
                " name it with --runtime",
            )
        found = {"libtvm_runtime.so": runtime_library(), "libtvm_ffi.so": _installed_ffi()}
    else:
        found = {name: _search(given, name) for name in LIBRARIES}
    for path in found.values():
        machine = elf_machine(path)
        if machine != architecture:
            raise ArtifactError(
                f"{path} is for {machine}, the bundle is for {architecture}",
                hint=f"take the libraries out of the {architecture} wheels of {_PACKAGES}",
            )
    return found


def elf_machine(path: Path) -> str:
    """Architecture of a shared object, as target triples spell it.

    Raises
    ------
    ArtifactError
        It cannot be read, or is not an ELF file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
    if len(head) < 20 or head[:4] != b"\x7fELF":
        raise ArtifactError(f"{path} is not a shared object", hint="take it out of the wheel again")
    number = struct.unpack("<H" if head[5] == 1 else ">H", head[18:20])[0]
    return _MACHINES.get(number, f"machine {number}")


def _search(directory: Path, name: str) -> Path:
    found = sorted(directory.rglob(name)) if directory.is_dir() else []
    if not found:
        raise UsageError(
            f"{directory} holds no {name}",
            hint=f"name a directory with {' and '.join(LIBRARIES)}, such as unpacked wheels of {_PACKAGES}",
        )
    return found[0]


def _installed_ffi() -> Path:
    found = importlib.util.find_spec("tvm_ffi")
    for folder in (found.submodule_search_locations or []) if found else []:
        library = Path(folder) / "lib" / "libtvm_ffi.so"
        if library.is_file():
            return library
    raise ArtifactError("libtvm_ffi.so was not found", hint=f"pip install {_PACKAGES.replace(' and ', ' ')}")
