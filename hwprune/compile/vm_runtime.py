"""Running compiled shared objects through ``tvm_ffi`` and the TVM runtime, without ``tvm``.

Importing the ``tvm`` package costs seconds and a compiler; the virtual machine needs neither.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import mmap
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.errors import ArtifactError, UsageError

#: Compiled code may load whole cache lines: buffers begin at a multiple of this many bytes.
ALIGNMENT = 64
#: Size of a large page (x86-64; elsewhere it only rounds up).
HUGE_PAGE = 1 << 21


@cache
def ffi() -> Any:
    """The ``tvm_ffi`` package, imported without dragging in torch.

    It imports torch wherever torch is installed, which costs seconds and hundreds of megabytes
    in a worker that only passes numpy arrays; so torch is hidden from it unless already loaded.
    """
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tvm_ffi
    finally:
        if hide:
            del sys.modules["torch"]
    return tvm_ffi


def runtime_library() -> Path:
    """Path of ``libtvm_runtime.so`` of the installed TVM (found without importing it).

    Raises
    ------
    ArtifactError
        TVM is not installed.
    """
    found = importlib.util.find_spec("tvm")
    for folder in (found.submodule_search_locations or []) if found else []:
        library = Path(folder) / "lib" / "libtvm_runtime.so"
        if library.is_file():
            return library
    raise ArtifactError("libtvm_runtime.so was not found", hint="pip install apache-tvm==0.27.0.post1")


@cache
def load_runtime() -> None:
    """Load the TVM runtime library once per process."""
    ffi()  # brings libtvm_ffi.so, which the runtime is linked to
    ctypes.CDLL(str(runtime_library()), ctypes.RTLD_GLOBAL)


def aligned_empty(shape: Sequence[int]) -> np.ndarray:
    """Uninitialised float32 array whose data begin at a multiple of :data:`ALIGNMENT`."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.empty(count * 4 + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + count * 4].view(np.float32).reshape(tuple(shape))


def aligned(array: np.ndarray) -> np.ndarray:
    """The array itself if it is contiguous float32 and aligned, else a copy that is."""
    ready = array.dtype == np.float32 and array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0
    if ready:
        return array
    copy = aligned_empty(array.shape)
    copy[...] = array
    return copy


def resident(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Copies of float32 arrays side by side in memory of large pages, where the system has them.

    Weights are read once a run; in small pages, looking up their addresses costs a few percent
    of a network.
    """
    sizes = [-(-a.nbytes // ALIGNMENT) * ALIGNMENT for a in arrays]
    memory = mmap.mmap(-1, sum(sizes) + HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, np.uint8)
    place = -raw.ctypes.data % HUGE_PAGE
    copies: list[np.ndarray] = []
    for array, size in zip(arrays, sizes, strict=True):
        copy = raw[place : place + array.nbytes].view(np.float32).reshape(array.shape)
        copy[...] = array
        copies.append(copy)
        place += size
    return copies


def _configure_pool(threads: int) -> None:
    """Have TVM's thread pool run ``threads`` threads, wherever the system puts them.

    By itself the pool takes half of an x86 machine's cores, on the assumption that they are
    hyper-threads, and binds its callers and workers to the first cores of the machine, whatever
    this process may use.

    Raises
    ------
    UsageError
        The environment variable ``TVM_NUM_THREADS`` allows fewer threads.
    """
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("TVM_NUM_THREADS", str(max(threads, cores)))
    ffi().get_global_func("runtime.config_threadpool")(1, threads)
    allowed = int(ffi().get_global_func("runtime.NumThreads")())
    if allowed < threads:
        raise UsageError(
            f"{threads} threads are asked for, but TVM's thread pool has {allowed}",
            hint=f"unset TVM_NUM_THREADS, or set it to {threads} or more, before this process starts",
        )


class VirtualMachine:
    """A loaded module whose ``main`` takes inputs, then weights.

    Weights are handed over once and copied.
    """

    def __init__(self, library: Path, weights: Sequence[np.ndarray], threads: int = 1) -> None:
        load_runtime()
        if threads > 1:
            _configure_pool(threads)
        self._module: Any = ffi().load_module(str(library.resolve()))
        self._vm: Any = self._module["vm_load_executable"]()
        self._vm["vm_initialization"](1, 0, 2, 1, 0, 2)
        self._weights = resident(weights)
        self._weight_tensors = [ffi().from_dlpack(w) for w in self._weights]
        self._inputs: list[np.ndarray] = []
        self._own_inputs = False

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Hand the inputs over; they stay for all following :meth:`invoke` calls."""
        self._own_inputs = False
        self._inputs = [aligned(a) for a in inputs]
        tensors = [ffi().from_dlpack(a) for a in self._inputs]
        self._vm["set_input"]("main", *tensors, *self._weight_tensors)
        self._invoke: Any = self._vm["invoke_stateful"]

    def invoke(self) -> None:
        """Run ``main`` once on the inputs that were set."""
        self._invoke("main")

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run ``main`` on copies of the inputs.

        The buffers for them are handed over once: handing over all arguments costs as much as a
        small kernel.
        """
        if not self._own_inputs:
            self.set_inputs([aligned_empty(a.shape) for a in inputs])
            self._own_inputs = True
        for buffer, given in zip(self._inputs, inputs, strict=True):
            buffer[...] = given
        self.invoke()
        return self.outputs()

    def outputs(self) -> list[np.ndarray]:
        """Copies of the results of the last :meth:`invoke`."""
        count = self._vm["get_output_arity"]("main")
        return [np.array(np.from_dlpack(self._vm["get_output"]("main", i))) for i in range(count)]


def check_inputs(arrays: Sequence[np.ndarray], shapes: Sequence[Sequence[int]]) -> None:
    """Refuse inputs of the wrong number, shape or dtype.

    Raises
    ------
    UsageError
        Naming the input.
    """
    if len(arrays) != len(shapes):
        raise UsageError(f"the module takes {len(shapes)} inputs, {len(arrays)} were given")
    for i, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        if tuple(array.shape) != tuple(shape) or array.dtype != np.float32:
            raise UsageError(
                f"input {i} must be float32 of shape {tuple(shape)}, not {array.dtype} of {array.shape}"
            )
