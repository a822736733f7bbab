"""Memory for a library's arguments, described as DLPack tensors."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Any

#: Compiled code loads whole cache lines: buffers begin at a multiple of this many bytes.
ALIGNMENT = 64
#: Size of a large page (x86-64; elsewhere it only rounds up).
HUGE_PAGE = 1 << 21
#: Device type of processors in DLPack.
ON_CPU = 1
_FLOAT_BITS = 32


class Tensor(ctypes.Structure):
    """``DLManagedTensor`` of DLPack: a tensor and how to free it (here: not at all)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class Memory:
    """Float32 tensors side by side in memory of large pages, filled with a block of values.

    In small pages, looking up the addresses of weights costs a few percent of a network, and inputs
    share cache sets by chance.

    Parameters
    ----------
    shapes
        Of the tensors.
    block
        Little-endian values.
    """

    def __init__(self, shapes: list[list[int]], block: bytes) -> None:
        sizes = [4 * count_items(shape) for shape in shapes]
        rounded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
        self._map = mmap.mmap(-1, sum(rounded) + HUGE_PAGE)
        advice = getattr(mmap, "MADV_HUGEPAGE", None)
        if advice is not None:
            with contextlib.suppress(OSError):  # a kernel without large pages
                self._map.madvise(advice)
        self._anchor = (ctypes.c_char * len(self._map)).from_buffer(self._map)
        place = ctypes.addressof(self._anchor)
        place += -place % HUGE_PAGE
        self._shapes: list[Any] = []
        self.tensors: list[Any] = []
        for shape, size, step in zip(shapes, sizes, rounded):  # noqa: B905 - Python 3.8
            _fill(place, size, block)
            extents = (ctypes.c_int64 * max(1, len(shape)))(*shape)
            self._shapes.append(extents)
            where = ctypes.cast(extents, ctypes.c_void_p)
            self.tensors.append(
                Tensor(place, ON_CPU, 0, len(shape), 2, _FLOAT_BITS, 1, where, None, 0, None, None)
            )
            place += step


def count_items(shape: list[int]) -> int:
    """Values of a tensor."""
    count = 1
    for extent in shape:
        count *= extent
    return count


def _fill(place: int, size: int, block: bytes) -> None:
    """Write ``block`` over and over; the pages are touched."""
    written = min(size, len(block))
    ctypes.memmove(place, block, written)
    while written < size:  # what is there already is copied behind itself
        step = min(written, size - written)
        ctypes.memmove(place + written, place, step)
        written += step
