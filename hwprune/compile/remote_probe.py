"""A small library that is sent to a device ahead of kernels: it reads, pins, clocks and guards.

A TVM RPC server can send files, but not those of ``/proc``, which have no size; it cannot choose a
core; and it never serves again after a session that has crashed. The few functions below, in LLVM's
assembly because that needs neither a compiler nor headers for the device, fill these gaps.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hwprune.compile.link import host_architecture, link_shared, target_architecture
from hwprune.errors import CompileError

#: Machines whose C library lays out what the functions below hand to it as they do.
ARCHITECTURES = ("x86_64", "aarch64")

#: Arguments are ``TVMFFIAny`` (16 bytes, the value in the upper 8); a tensor is a ``DLTensor*``.
#:
#: - ``slurp(path, buffer, size)``: bytes of the file of that (zero-terminated) name, or -1.
#: - ``cpu_ns()``: processor time of the serving process.
#: - ``pin(mask)``: run on the cores of a 128-byte mask only; 0 if that was granted.
#: - ``guard()``: a crash ends the session as if it had ended well, or the server would give up.
_SOURCE = """
target triple = "%TRIPLE%"
declare i32 @open(ptr, i32, ...)
declare i64 @read(i32, ptr, i64)
declare i32 @close(i32)
declare i32 @clock_gettime(i32, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare ptr @signal(i32, ptr)
declare void @_exit(i32)

define internal void @give(ptr %ret, i64 %value) {
  store i32 1, ptr %ret
  %place = getelementptr i8, ptr %ret, i64 8
  store i64 %value, ptr %place
  ret void
}
define internal ptr @data(ptr %args, i64 %offset) {
  %place = getelementptr i8, ptr %args, i64 %offset
  %tensor = load ptr, ptr %place
  %data = load ptr, ptr %tensor
  ret ptr %data
}
define i32 @__tvm_ffi_slurp(ptr %self, ptr %args, i32 %count, ptr %ret) {
entry:
  %path = call ptr @data(ptr %args, i64 8)
  %buffer = call ptr @data(ptr %args, i64 24)
  %place = getelementptr i8, ptr %args, i64 40
  %size = load i64, ptr %place
  %file = call i32 (ptr, i32, ...) @open(ptr %path, i32 0)
  %missing = icmp slt i32 %file, 0
  br i1 %missing, label %none, label %loop
none:
  call void @give(ptr %ret, i64 -1)
  ret i32 0
loop:
  %total = phi i64 [ 0, %entry ], [ %sum, %more ]
  %at = getelementptr i8, ptr %buffer, i64 %total
  %left = sub i64 %size, %total
  %got = call i64 @read(i32 %file, ptr %at, i64 %left)
  %end = icmp slt i64 %got, 1
  br i1 %end, label %done, label %more
more:
  %sum = add i64 %total, %got
  br label %loop
done:
  %closed = call i32 @close(i32 %file)
  call void @give(ptr %ret, i64 %total)
  ret i32 0
}
define i32 @__tvm_ffi_cpu_ns(ptr %self, ptr %args, i32 %count, ptr %ret) {
  %time = alloca [2 x i64]
  %status = call i32 @clock_gettime(i32 2, ptr %time)
  %seconds = load i64, ptr %time
  %second = getelementptr i8, ptr %time, i64 8
  %rest = load i64, ptr %second
  %scaled = mul i64 %seconds, 1000000000
  %sum = add i64 %scaled, %rest
  call void @give(ptr %ret, i64 %sum)
  ret i32 0
}
define i32 @__tvm_ffi_pin(ptr %self, ptr %args, i32 %count, ptr %ret) {
  %mask = call ptr @data(ptr %args, i64 8)
  %status = call i32 @sched_setaffinity(i32 0, i64 128, ptr %mask)
  %wide = sext i32 %status to i64
  call void @give(ptr %ret, i64 %wide)
  ret i32 0
}
define internal void @leave(i32 %signal) {
  call void @_exit(i32 0)
  ret void
}
define i32 @__tvm_ffi_guard(ptr %self, ptr %args, i32 %count, ptr %ret) {
%GUARDS%
  call void @give(ptr %ret, i64 0)
  ret i32 0
}
!llvm.module.flags = !{!0}
!0 = !{i32 4, !"tvm_target", !"%TARGET%"}
"""
#: SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, as Linux numbers them on every machine above.
_SIGNALS = (4, 6, 7, 8, 11)


def build_probe(triple: str | None, path: str) -> None:
    """Build the library for a kind of processor; called in a worker process.

    Parameters
    ----------
    triple
        Of a target; None is this machine's.
    path
        The ``.so`` to write.

    Raises
    ------
    CompileError
        Not a Linux processor that it is written for, or TVM or the linker refuses.
    """
    from hwprune.compile.tvm_api import tvm

    architecture = target_architecture(triple)
    if architecture not in ARCHITECTURES or "linux" not in (triple or "linux"):
        raise CompileError(f"there is no probe for {triple or host_architecture()}")
    triple = triple or f"{architecture}-linux-gnu"
    llvm = json.dumps({"kind": "llvm", "mtriple": triple}).replace('"', "\\22")
    guards = "\n".join(f"  %s{n} = call ptr @signal(i32 {n}, ptr @leave)" for n in _SIGNALS)
    source = _SOURCE.replace("%TRIPLE%", triple).replace("%TARGET%", llvm).replace("%GUARDS%", guards)
    with tempfile.TemporaryDirectory(prefix="hwprune-probe-") as scratch:
        text, objects = Path(scratch) / "probe.ll", Path(scratch) / "probe.o"
        text.write_text(source)
        try:
            tvm.runtime.load_module(str(text)).write_to_file(str(objects), "o")
        except Exception as error:
            raise CompileError(f"TVM could not build the probe for {triple}: {str(error)[:500]}") from error
        link_shared([str(objects)], Path(path), architecture)
