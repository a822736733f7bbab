"""Calls kernels of an aarch64 shared object on any machine, by emulation, and counts instructions.

A kernel's entry is ``int32_t __tvm_ffi_<name>(void*, TVMFFIAny* args, int32_t n, TVMFFIAny* result)``
with one DLTensor pointer per physical tensor. It needs neither the TVM runtime nor an operating
system, so a bare processor with memory is enough. Counts are exact; they say nothing about time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import unicorn
from unicorn import arm64_const as arm

CODE, STACK, STUBS, HEAP, TENSORS = 0x1000_0000, 0x2000_0000, 0x3000_0000, 0x4000_0000, 0x8000_0000
STACK_BYTES, PAGE = 1 << 20, 1 << 16
#: Symbols of the runtime and of libc that kernels use; each is one ``ret``, the work is done here.
FUNCTIONS = ("done", "memcpy", "memset", "__TVMBackendAllocWorkspace", "__TVMBackendFreeWorkspace")
RET = 0xD65F03C0
DL_TENSOR_POINTER = 7


def _up(size: int, step: int = PAGE) -> int:
    return -(-size // step) * step


@dataclass(frozen=True)
class Counts:
    """Instructions that ran: all of them, vector multiply-adds, loads and stores."""

    total: int
    multiply_adds: int
    memory: int


class Image:
    """An ELF shared object laid out in memory, its dynamic symbols and relocations."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        assert data[:5] == b"\x7fELF\x02" and struct.unpack_from("<H", data, 18)[0] == 183, "not aarch64"
        (start,) = struct.unpack_from("<Q", data, 32)
        (count,) = struct.unpack_from("<H", data, 56)
        headers = [struct.unpack_from("<IIQQQQQQ", data, start + 56 * i) for i in range(count)]
        loads = [h for h in headers if h[0] == 1]
        self.memory = bytearray(_up(max(h[3] + h[6] for h in loads)))
        for _, _, offset, address, _, in_file, _, _ in loads:
            self.memory[address : address + in_file] = data[offset : offset + in_file]
        (dynamic,) = (h for h in headers if h[0] == 2)
        tags = dict(self._pairs(dynamic[3], dynamic[5]))
        self.symbols = self._symbols(tags)
        self.relocations = [
            struct.unpack_from("<QQq", self.memory, tags[table] + at)
            for table, size in ((7, 8), (23, 2))  # DT_RELA, DT_JMPREL
            if table in tags
            for at in range(0, tags[size], 24)
        ]

    def _pairs(self, address: int, size: int) -> list[tuple[int, int]]:
        return [struct.unpack_from("<QQ", self.memory, address + at) for at in range(0, size, 16)]

    def _symbols(self, tags: dict[int, int]) -> list[tuple[str, int, int]]:
        """Name, section number and address of each dynamic symbol (DT_HASH holds their number)."""
        (_, count) = struct.unpack_from("<II", self.memory, tags[4])
        found: list[tuple[str, int, int]] = []
        for number in range(count):
            name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", self.memory, tags[6] + 24 * number)
            begin = tags[5] + name
            found.append((self.memory[begin : self.memory.index(0, begin)].decode(), section, value))
        return found


class Emulator:
    """A bare Cortex-A72 with one shared object in its memory."""

    def __init__(self, library: Path, heap_bytes: int = 1 << 26) -> None:
        self._cpu: Any = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._cpu.ctl_set_cpu_model(arm.UC_CPU_ARM64_A72)
        image = Image(library)
        stubs = {name: STUBS + 16 * i for i, name in enumerate(FUNCTIONS)}
        variables = {name: stubs[name] for name in FUNCTIONS if name.startswith("__")}
        self._entries = {name: CODE + value for name, section, value in image.symbols if section}
        for place, kind, addend in image.relocations:
            name, section, value = image.symbols[kind >> 32]
            target = CODE + value if section else stubs.get(name, 0)
            assert kind & 0xFFFFFFFF in (257, 1025, 1026, 1027), "unknown relocation"
            assert target or kind & 0xFFFFFFFF == 1027, f"kernels call {name}, which is not emulated"
            if kind & 0xFFFFFFFF == 1027:  # RELATIVE
                target = CODE
            struct.pack_into("<Q", image.memory, place, target + addend)
        for name, section, value in image.symbols:
            if section and name in variables:
                struct.pack_into("<Q", image.memory, value, variables[name])
        for base, size in (
            (CODE, len(image.memory)),
            (STACK, STACK_BYTES),
            (STUBS, PAGE),
            (HEAP, heap_bytes),
        ):
            self._cpu.mem_map(base, size)
        self._cpu.mem_write(CODE, bytes(image.memory))
        self._cpu.mem_write(STUBS, struct.pack("<IIII", RET, 0, 0, 0) * len(FUNCTIONS))
        self._cpu.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # vector registers on
        self._cpu.hook_add(unicorn.UC_HOOK_CODE, self._stub, None, STUBS, STUBS + PAGE)
        self._free = HEAP
        self._guarded: list[tuple[int, int]] = []
        self._seen: dict[int, int] = {}

    def _stub(self, cpu: Any, address: int, size: int, data: object) -> None:
        x0, x1, x2 = (cpu.reg_read(arm.UC_ARM64_REG_X0 + i) for i in range(3))
        name = FUNCTIONS[(address - STUBS) // 16]
        if name == "memcpy":
            cpu.mem_write(x0, bytes(cpu.mem_read(x1, x2)))
        elif name == "memset":
            cpu.mem_write(x0, bytes([x1 & 255]) * x2)
        elif name == "__TVMBackendAllocWorkspace":  # (device type, device number, bytes, ...)
            cpu.reg_write(arm.UC_ARM64_REG_X0, self._allocate(x2))
        elif name == "__TVMBackendFreeWorkspace":
            cpu.reg_write(arm.UC_ARM64_REG_X0, 0)

    def _allocate(self, size: int) -> int:
        place = self._free
        self._free = _up(place + size, 64)
        return place

    def _store(self, data: bytes) -> int:
        place = self._allocate(len(data))
        self._cpu.mem_write(place, data)
        return place

    def _guard(self, data: bytes, at_end: bool) -> int:
        """Memory that begins, or ends, where nothing is mapped: reading beyond it fails."""
        size = _up(len(data), 64)
        pages = _up(size)
        begin = self._guarded[-1][0] + self._guarded[-1][1] + PAGE if self._guarded else TENSORS
        self._cpu.mem_map(begin, pages)
        self._guarded.append((begin, pages))
        place = begin + pages - size if at_end else begin
        self._cpu.mem_write(place, data)
        return place

    def _tensor(self, data: int, shape: Sequence[int]) -> int:
        """A DLTensor on the CPU, float32, compact."""
        strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        lists = [self._store(struct.pack(f"<{len(shape)}q", *values)) for values in (shape, strides)]
        return self._store(struct.pack("<QiiiBBHQQQ", data, 1, 0, len(shape), 2, 32, 1, *lists, 0))

    def call(
        self,
        name: str,
        arrays: Sequence[np.ndarray],
        output: Sequence[int],
        *,
        count: bool = False,
        at_end: bool = False,
    ) -> tuple[np.ndarray, Counts | None]:
        """Run kernel ``name`` on physical arrays; its output, and with ``count`` what ran."""
        self._free = HEAP
        while self._guarded:
            self._cpu.mem_unmap(*self._guarded.pop())
        places = [self._guard(np.ascontiguousarray(a, np.float32).tobytes(), at_end) for a in arrays]
        size = 4 * int(np.prod(output))
        # Not-a-number where nothing was stored.
        result = self._guard(b"\xff" * size, at_end)
        tensors = [self._tensor(p, a.shape) for p, a in zip(places, arrays, strict=True)]
        tensors.append(self._tensor(result, output))
        args = self._store(b"".join(struct.pack("<iiQ", DL_TENSOR_POINTER, 0, t) for t in tensors))
        returned = self._store(bytes(16))
        for number, value in enumerate((0, args, len(tensors), returned)):
            self._cpu.reg_write(arm.UC_ARM64_REG_X0 + number, value)
        self._cpu.reg_write(arm.UC_ARM64_REG_SP, STACK + STACK_BYTES - 64)
        self._cpu.reg_write(arm.UC_ARM64_REG_LR, STUBS)
        self._seen.clear()
        hook = (
            self._cpu.hook_add(unicorn.UC_HOOK_BLOCK, self._block, None, CODE, STUBS - 1) if count else None
        )
        try:
            self._cpu.emu_start(self._entries[f"__tvm_ffi_{name}"], STUBS)
        finally:
            if hook is not None:
                self._cpu.hook_del(hook)
        status = self._cpu.reg_read(arm.UC_ARM64_REG_X0) & 0xFFFFFFFF
        assert status == 0, f"{name} returned {status}"
        values = np.frombuffer(bytes(self._cpu.mem_read(result, size)), np.float32).reshape(tuple(output))
        return values, self._counts() if count else None

    def _block(self, cpu: Any, address: int, size: int, data: object) -> None:
        key = address << 16 | size
        self._seen[key] = self._seen.get(key, 0) + 1

    def _counts(self) -> Counts:
        total = adds = memory = 0
        for key, times in self._seen.items():
            words = np.frombuffer(bytes(self._cpu.mem_read(key >> 16, key & 0xFFFF)), np.uint32)
            total += times * words.size
            # Arm Architecture Reference Manual, C4.1: FMLA by vector and by element; loads and stores.
            vector, element = (words & 0xBFA0FC00) == 0x0E20CC00, (words & 0xBF80F400) == 0x0F801000
            adds += times * int(np.count_nonzero(vector | element))
            memory += times * int(np.count_nonzero((words & 0x0A000000) == 0x08000000))
        return Counts(total, adds, memory)
