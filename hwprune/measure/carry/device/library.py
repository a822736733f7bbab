"""Running a compiled library through the C interface of TVM's runtime, by ctypes alone."""

from __future__ import annotations

import ctypes
import os
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwprune.measure.carry.device.memory import ON_CPU, Memory, Tensor, count_items

#: Type indices of ``TVMFFIAny`` (tvm/ffi/c_api.h) that are not objects.
_INT, _BOOL, _STRING = 1, 2, 8
#: Bytes of the header that every TVM object starts with.
_OBJECT_HEADER = 24
_POOLED_ALLOCATOR = 2


class _Any(ctypes.Structure):
    """``TVMFFIAny``: a type index and eight bytes."""

    _fields_ = (("type_index", ctypes.c_int32), ("padding", ctypes.c_uint32), ("value", ctypes.c_uint64))


class _Bytes(ctypes.Structure):
    """``TVMFFIByteArray``."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class TvmError(Exception):
    """TVM reported an error, in its own words."""


class Tvm:
    """The two libraries of the runtime, loaded once per process.

    Parameters
    ----------
    folder
        Holds ``libtvm_ffi.so`` and ``libtvm_runtime.so``.
    threads
        Threads of TVM's pool.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        os.environ.setdefault("TVM_NUM_THREADS", str(threads))
        # The runtime asks for libtvm_ffi.so by name, so that one must be there before it.
        self._c = ctypes.CDLL(str(folder / "libtvm_ffi.so"), ctypes.RTLD_GLOBAL)
        self._runtime = ctypes.CDLL(str(folder / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
        self._load = self._global(b"ffi.ModuleLoadFromFile")
        self._find = self._global(b"ffi.ModuleGetFunction")
        if threads > 1:
            # By itself the pool takes half of an x86 machine's cores and binds to the first ones.
            self.call(self._global(b"runtime.config_threadpool"), 1, threads)

    def version(self) -> str:
        """Version of ``libtvm_ffi.so``."""
        numbers = (ctypes.c_uint32 * 3)()
        self._c.TVMFFIGetVersion(numbers)
        return ".".join(str(number) for number in numbers)

    def load(self, path: Path) -> int:
        """Handle of the module in a shared object."""
        return self.call(self._load, str(path).encode())

    def function(self, module: int, name: bytes) -> int:
        """Handle of a module's function.

        Raises
        ------
        TvmError
            There is none.
        """
        found = self.call(self._find, _Object(module), name, True)
        if not found:
            raise TvmError(f"the library has no function {name.decode()}")
        return found

    def call(self, function: int, *arguments: Any) -> int:
        """Call a function; an object or whole number that it returns, else 0.

        Raises
        ------
        TvmError
            It failed.
        """
        packed, result = self.pack(arguments), _Any()
        if self._c.TVMFFIFunctionCall(
            ctypes.c_void_p(function), packed, len(arguments), ctypes.byref(result)
        ):
            raise self.error()
        return int(result.value) if result.type_index else 0

    def caller(self, function: int, *arguments: Any) -> Any:
        """A callable without arguments that returns nonzero on failure, for the timed loop."""
        packed, result = self.pack(arguments), _Any()
        call, keep = self._c.TVMFFIFunctionCall, (packed, result, arguments)
        handle, count = ctypes.c_void_p(function), ctypes.c_int32(len(arguments))
        where = ctypes.byref(result)

        def run(call: Any = call, keep: Any = keep) -> int:
            return call(handle, packed, count, where)

        return run

    def pack(self, arguments: Any) -> Any:
        """Arguments as an array of ``TVMFFIAny`` that refers to, and does not own, what they hold."""
        packed = (_Any * max(1, len(arguments)))()
        for place, value in enumerate(arguments):
            if isinstance(value, bytes):
                packed[place].type_index = _STRING
                packed[place].value = ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p).value or 0
            elif isinstance(value, _Object):
                packed[place].type_index = value.type_index()
                packed[place].value = value.handle
            else:
                packed[place].type_index = _BOOL if isinstance(value, bool) else _INT
                packed[place].value = int(value)
        return packed

    def tensor(self, managed: Any) -> Any:
        """A TVM tensor over memory that must outlive it."""
        handle = ctypes.c_void_p()
        if self._c.TVMFFITensorFromDLPack(ctypes.byref(managed), 0, 0, ctypes.byref(handle)):
            raise self.error()
        return _Object(handle.value or 0)

    def free(self, handle: int) -> None:
        """Let go of an object."""
        if handle:
            self._c.TVMFFIObjectDecRef(ctypes.c_void_p(handle))

    def error(self) -> TvmError:
        """The error that was raised last, on one line."""
        handle = ctypes.c_void_p()
        self._c.TVMFFIErrorMoveFromRaised(ctypes.byref(handle))
        if not handle.value:
            return TvmError("TVM failed without a message")
        kind, message = (
            _text_of(handle.value + _OBJECT_HEADER + place * ctypes.sizeof(_Bytes)) for place in (0, 1)
        )
        self.free(handle.value)
        return TvmError(f"{kind}: {' '.join(message.split())[:300]}")

    def _global(self, name: bytes) -> int:
        handle, text = ctypes.c_void_p(), ctypes.c_char_p(name)
        key = _Bytes(ctypes.cast(text, ctypes.c_void_p), len(name))
        if self._c.TVMFFIFunctionGetGlobal(ctypes.byref(key), ctypes.byref(handle)):
            raise self.error()
        if not handle.value:
            raise TvmError(f"this TVM runtime has no function {name.decode()}: is it of another version?")
        return handle.value


class _Object:
    """A handle on its way into a call; its own header says of which type it is."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def type_index(self) -> int:
        """The header is a reference count of eight bytes, then the type index."""
        return ctypes.c_int32.from_address(self.handle + 8).value


def _text_of(address: int) -> str:
    array = _Bytes.from_address(address)
    return ctypes.string_at(array.data, array.size).decode(errors="replace") if array.data else ""


class Loaded:
    """A library with arguments in place, ready to be timed.

    Parameters
    ----------
    tvm
        The runtime.
    path
        The shared object.
    about
        ``inputs`` and ``weights`` (physical shapes), ``copies`` (kernel calls in one run).
    block
        Little-endian float32 values that all arguments are filled with.
    """

    def __init__(self, tvm: Tvm, path: Path, about: dict[str, Any], block: bytes) -> None:
        self._tvm = tvm
        #: Seconds that a fixed piece of work takes now, if somebody can tell.
        self.pace: Callable[[], float] | None = None
        self._copies = int(about["copies"])
        self._handles: list[int] = []
        memory = Memory([*about["inputs"], *about["weights"]], block)
        self._memory: Memory | None = memory
        module = self._keep(tvm.load(path))
        vm = self._keep(tvm.call(self._keep(tvm.function(module, b"vm_load_executable"))))
        start = self._keep(tvm.function(vm, b"vm_initialization"))
        tvm.call(start, ON_CPU, 0, _POOLED_ALLOCATOR, ON_CPU, 0, _POOLED_ALLOCATOR)
        tensors = [tvm.tensor(managed) for managed in memory.tensors]
        self._handles.extend(tensor.handle for tensor in tensors)
        tvm.call(self._keep(tvm.function(vm, b"set_input")), b"main", *tensors)
        self._output = self._keep(tvm.function(vm, b"get_output"))
        self._run: Any = tvm.caller(self._keep(tvm.function(vm, b"invoke_stateful")), b"main")
        self._invoke_once()

    def time(self, number: int, repeat: int) -> list[float]:
        """``repeat`` samples, each the mean over ``number`` runs: seconds per single kernel call."""
        run, clock, samples = self._run, time.perf_counter_ns, []
        scale = 1e-9 / (number * self._copies)
        failed = 0
        for _ in range(repeat):
            begin = clock()
            for _ in range(number):
                failed |= run()
            samples.append((clock() - begin) * scale)
        if failed:
            raise self._tvm.error()
        return samples

    def output(self) -> array[float]:
        """Values of the first result of the last run."""
        tensor = self._tvm.call(self._output, b"main", 0)
        try:
            header = Tensor.from_address(tensor + _OBJECT_HEADER)
            shape = (ctypes.c_int64 * header.ndim).from_address(header.shape)
            raw = ctypes.string_at(header.data + header.byte_offset, 4 * count_items(list(shape)))
        finally:
            self._tvm.free(tensor)
        return array("f", raw)

    def close(self) -> None:
        """Free everything: the next library may need the memory."""
        self._run = None
        while self._handles:
            self._tvm.free(self._handles.pop())
        self._memory = None

    def _invoke_once(self) -> None:
        if self._run():
            raise self._tvm.error()

    def _keep(self, handle: int) -> int:
        self._handles.append(handle)
        return handle
