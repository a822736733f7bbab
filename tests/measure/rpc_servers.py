"""``python -m tests.measure.rpc_servers FOLDER KEY COUNT``: a tracker and devices on loopback.

What ``python -m tvm.exec.rpc_tracker`` and ``rpc_server`` run, in forks of one process, so that TVM is
imported once. Prints one JSON object and ends with its standard input. Each device is a process
group. FOLDER gets two libraries that no device likes, and two bundles.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import numpy as np
from tvm.rpc import server as rpc_server
from tvm.rpc import tracker as rpc_tracker

from hwprune.compile.link import host_architecture, link_shared
from hwprune.compile.tvm_api import tvm

_BAD = """
target triple = "%ARCH%-linux-gnu"
%entry = type { i32, ptr, ptr }
@llvm.global_ctors = appending global [1 x %entry] [%entry { i32 1, ptr @bad, ptr null }]
define internal void @bad() {
  br label %again
again:
  %BODY%
  br label %again
}
!llvm.module.flags = !{!0}
!0 = !{i32 4, !"tvm_target", !"{\\22kind\\22: \\22llvm\\22}"}
"""
#: What happens when the library is loaded.
BODIES = {"crash": "store volatile i32 0, ptr null", "hang": "fence seq_cst"}


def build_bad(folder: Path) -> None:
    for name, body in BODIES.items():
        text, objects = folder / f"{name}.ll", folder / f"{name}.o"
        text.write_text(_BAD.replace("%ARCH%", host_architecture()).replace("%BODY%", body))
        tvm.runtime.load_module(str(text)).write_to_file(str(objects), "o")
        link_shared([str(objects)], folder / f"{name}.so", host_architecture())


def build_bundles(folder: Path) -> None:
    """``one`` and ``two``: a 3x3 convolution with other weights in each."""
    from hwprune.compile import compile_program
    from hwprune.latency.program import Program, Source, Step
    from hwprune.target import load_target
    from tests.measure.fakes import conv

    template = conv(16, 3, 8)
    entry = type(template.inputs[0])((1, 3, 8, 8), "input")
    spec = type(template)((entry, template.inputs[1]), template.ops, plain_output=True)
    step = Step("conv", spec, (Source("input", 0), Source("weight", 0)))
    for seed, name in enumerate(("one", "two")):
        weight = np.random.default_rng(seed).standard_normal((16, 3, 3, 3)).astype(np.float32)
        program = Program(((1, 3, 8, 8),), (step,), (Source("step", 0),), (weight,))
        compile_program(program, load_target("host", threads=1)).save(folder / name, {})


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(1)
    return sock


def track(sock: socket.socket) -> None:
    rpc_tracker.TrackerServerHandler(sock, "stop").run()


def serve(port: int, tracker: int | None, key: str) -> None:
    address = ("127.0.0.1", tracker) if tracker else None
    rpc_server.PopenRPCServerState("127.0.0.1", port, port + 1, tracker_addr=address, key=key, silent=True)
    threading.Event().wait()


def fork(work) -> int:  # type: ignore[no-untyped-def]
    pid = os.fork()
    if pid == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        work()
        os._exit(0)
    return pid


def main(folder: str, key: str, count: str) -> None:
    build_bad(Path(folder))
    build_bundles(Path(folder))
    sock = listening()
    port = sock.getsockname()[1]
    pids = [fork(lambda: track(sock))]
    sock.close()
    devices: list[dict[str, int]] = []
    # The last one is on its own, without the tracker.
    for tracker in [port] * int(count) + [None]:
        with listening() as probe:
            own = probe.getsockname()[1]
        pids.append(fork(lambda own=own, tracker=tracker: serve(own, tracker, key if tracker else "")))
        devices.append({"pid": pids[-1], "port": own})
    print(json.dumps({"tracker": port, "devices": devices}), flush=True)
    sys.stdin.read()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
