"""Kernels and networks on a device that is reached through a TVM RPC server.

The client is TVM's runtime alone (see :mod:`hwprune.compile.vm_runtime`): neither ``tvm`` nor
``torch`` is imported. A session has a time limit, after which the server ends it by itself; so a
kernel that hangs does not keep a device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.compile.vm_runtime import ffi, load_runtime
from hwprune.errors import DeviceLostError, MeasureError

#: TVM's number of the first remote device type: local types are below.
_REMOTE = 128
#: Its number of processors.
CPU = 1
#: Largest file that is read from a device.
READ_BYTES = 1 << 20
CONNECTING = "connecting"
#: Bytes of an affinity mask.
MASK_BYTES = 128


@dataclass(frozen=True)
class Endpoint:
    """Where a session is opened: a server, and the key that it wants to hear."""

    host: str
    port: int
    key: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class RemoteSession:
    """An open session.

    Parameters
    ----------
    endpoint
        The server.
    timeout_s
        The server ends the session after this long.
    probe
        Library of :mod:`hwprune.compile.remote_probe`; None goes without.
    cores
        Cores to run on, where there is a probe.

    Raises
    ------
    DeviceLostError
        Nobody answers there, or not as a server of this TVM would.
    MeasureError
        The probe does not run on the device.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeout_s: float,
        probe: Path | None = None,
        cores: Sequence[int] = (),
    ) -> None:
        load_runtime()
        self.endpoint, self.timeout_s = endpoint, timeout_s
        self._loaded = 0
        self._buffer: Any = None
        with self.talking(CONNECTING):
            key = f"{endpoint.key} -timeout={timeout_s:g}"
            self._session: Any = _function("rpc.Connect")(endpoint.host, endpoint.port, key, False)
            #: Device type of the session's processor, as local functions want it.
            self.device_type: int = CPU + _REMOTE * (_function("rpc.SessTableIndex")(self._session) + 1)
        self._device = ffi().Device(self.device_type, 0)
        self._probe: Any = None
        if probe is not None:
            self._probe = self.load(probe)
            with self.talking("preparing the session"):
                self._probe["guard"]()
                if cores:
                    self._probe["pin"](self.tensor(_mask(cores)))

    @contextmanager
    def talking(self, what: str) -> Generator[None]:
        """Turn TVM's errors into ours, and tell a kernel's from the connection's."""
        try:
            yield
        except (AttributeError, RuntimeError, TypeError, ValueError, OSError) as error:
            text = str(error).strip()
            if "RPCSessionTimeoutError" in text:
                raise MeasureError(
                    f"it did not end within {self.timeout_s:g} s on {self.endpoint}"
                ) from error
            if "RPCError" in text:
                raise MeasureError(f"{what} failed on {self.endpoint}: {_last_line(text)}") from error
            if what == CONNECTING:
                raise DeviceLostError(
                    f"no RPC server answers at {self.endpoint}: {_first_line(text)}"
                ) from error
            raise DeviceLostError(
                f"the connection to {self.endpoint} broke off while {what}: {_first_line(text)}"
            ) from error

    def load(self, library: Path) -> Any:
        """Send a shared object and load it there."""
        self._loaded += 1
        name = f"{self._loaded}-{library.name}"  # one that is in use must not be written over
        with self.talking(f"loading {library.name}"):
            self._remote("tvm.rpc.server.upload")(name, library.read_bytes())
            return _function("rpc.LoadRemoteModule")(self._session, name)

    def tensor(self, array: np.ndarray) -> Any:
        """A copy of an array on the device."""
        shape, dtype = ffi().Shape(array.shape), ffi().dtype(str(array.dtype))
        tensor = _function("runtime.TVMTensorAllocWithScope")(shape, dtype, self._device, None)
        self.fill(tensor, array)
        return tensor

    @staticmethod
    def fill(tensor: Any, array: np.ndarray) -> None:
        """Write an array of its shape and dtype into a tensor of the device."""
        array = np.ascontiguousarray(array)
        pointer = array.ctypes.data_as(ctypes.c_void_p)
        _function("runtime.TVMTensorCopyFromBytes")(tensor, pointer, array.nbytes)

    def repeated(self, block: np.ndarray, length: int) -> Any:
        """A float32 tensor of ``length`` numbers: ``block`` over and over. Only ``block`` is sent."""
        dtype = ffi().dtype("float32")
        alloc, copy = _function("runtime.TVMTensorAllocWithScope"), _function("runtime.TVMTensorCopyFromTo")
        tensor = alloc(ffi().Shape([length]), dtype, self._device, None)
        filled = min(block.size, length)
        copy(self.tensor(block[:filled]), self.view(tensor, [filled]))
        while filled < length:
            count = min(filled, length - filled)
            copy(self.view(tensor, [count]), self.view(tensor, [count], filled * block.itemsize))
            filled += count
        return tensor

    def view(self, tensor: Any, shape: Sequence[int], offset: int = 0) -> Any:
        """A part of a float32 tensor under another shape; it begins ``offset`` bytes from the tensor."""
        dtype = ffi().dtype("float32")
        return _function("runtime.TVMTensorCreateView")(tensor, ffi().Shape(list(shape)), dtype, offset)

    def array(self, tensor: Any) -> np.ndarray:
        """A float32 tensor of the device as an array here."""
        array = np.empty(tuple(int(n) for n in tensor.shape), np.float32)
        pointer = array.ctypes.data_as(ctypes.c_void_p)
        with self.talking("reading results"):
            _function("runtime.TVMTensorCopyToBytes")(tensor, pointer, array.nbytes)
        return array

    def read(self, path: str) -> bytes | None:
        """A file of the device; None if there is none, or no way to read it."""
        if self._probe is None:
            try:
                with self.talking(f"reading {path}"):
                    return bytes(self._remote("tvm.rpc.server.download")(path)).rstrip(b"\0")
            except DeviceLostError:
                raise
            except MeasureError:
                return None
        with self.talking(f"reading {path}"):
            name = self.tensor(np.frombuffer(path.encode() + b"\0", np.uint8))
            if self._buffer is None:
                self._buffer = self.tensor(np.zeros(READ_BYTES, np.uint8))
            size = int(self._probe["slurp"](name, self._buffer, READ_BYTES))
            if size < 0:
                return None
            content = np.empty(size, np.uint8)
            if size:
                part = _function("runtime.TVMTensorCreateView")(
                    self._buffer, ffi().Shape([size]), ffi().dtype("uint8"), 0
                )
                pointer = content.ctypes.data_as(ctypes.c_void_p)
                _function("runtime.TVMTensorCopyToBytes")(part, pointer, size)
            return content.tobytes()

    def cpu_s(self) -> float | None:
        """Processor time of the serving process so far; None without a probe."""
        if self._probe is None:
            return None
        with self.talking("reading the processor's clock"):
            return int(self._probe["cpu_ns"]()) * 1e-9

    def use_threads(self, threads: int) -> None:
        """Size of the device's thread pool."""
        with self.talking("starting threads"):
            self._remote("runtime.config_threadpool")(1, threads)

    def _remote(self, name: str) -> Any:
        return self._session.get_function(name)


def _function(name: str) -> Any:
    return ffi().get_global_func(name)


def _mask(cores: Sequence[int]) -> np.ndarray:
    mask = np.zeros(MASK_BYTES, np.uint8)
    for core in cores:
        mask[core // 8] |= 1 << core % 8
    return mask


def _first_line(text: str) -> str:
    line = text.splitlines()[0] if text else "no reason given"
    return line.rpartition(" is false: ")[2].strip(" :")[:200]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"
