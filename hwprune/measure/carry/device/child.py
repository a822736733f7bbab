"""The process that runs kernels: it may crash or hang, and its parent goes on without it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwprune.measure.carry.device.library import Loaded, Tvm
from hwprune.measure.carry.device.output import nonfinite, wrong_value
from hwprune.measure.sampling import calibrate, sample, warm_up
from hwprune.measure.stopping import MeasureProfile

#: Runs of the pace kernel beside each sample; together they take about a tenth of a millisecond.
PACE_RUNS = 30
#: First argument of the script in a child.
CHILD_FLAG = "--as-child"


class Child:
    """Answers requests by their ``do``, holding one library at a time."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder = folder
        self._block = (folder / "values.bin").read_bytes()
        self._tvm = Tvm(folder / "lib", threads)
        self._loaded: Loaded | None = None
        self._pacer: Loaded | None = None

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Serve one request; whatever goes wrong becomes the answer's ``error``."""
        try:
            return getattr(self, "_" + message["do"])(message)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _about(self, message: dict[str, Any]) -> dict[str, Any]:
        """Version of the runtime that was loaded."""
        return {"tvm_ffi": self._tvm.version()}

    def _measure(self, message: dict[str, Any]) -> dict[str, Any]:
        """Load, warm up, sample until the profile is content, unload."""
        loaded = self._open(message)
        loaded.pace = self._pace_of(message["pace"])
        try:
            sampled = sample(loaded, MeasureProfile.from_dict(message["profile"]))
            values = loaded.output()
        finally:
            self._close()
        wrong = wrong_value(values, message["expected"])
        if wrong:
            return {"error": wrong}
        return replace(sampled, nonfinite=nonfinite(values)).to_dict()

    def _pace_of(self, about: dict[str, Any] | None) -> Callable[[], float] | None:
        """Times a fixed piece of work; see :meth:`hwprune.compile.KernelRunner.pace`."""
        if about is None:
            return None
        if self._pacer is None:
            self._pacer = Loaded(self._tvm, self._folder / about["file"], about, self._block)
            self._pacer.time(PACE_RUNS, 1)
        pacer = self._pacer
        return lambda: PACE_RUNS * pacer.time(PACE_RUNS, 1)[0]

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        """Load and warm up a library that is timed in turn with others."""
        loaded = self._open(message)
        number = calibrate(loaded, float(message["sample_s"]))
        warm_up(loaded, number, 20, 100 * float(message["sample_s"]))
        return {"number": number}

    def _time(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._loaded is not None
        samples = self._loaded.time(int(message["number"]), int(message["repeat"]))
        return {"samples_ns": [seconds * 1e9 for seconds in samples]}

    def _open(self, message: dict[str, Any]) -> Loaded:
        self._close()
        self._loaded = Loaded(self._tvm, self._folder / message["file"], message, self._block)
        return self._loaded

    def _close(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()


def child_main(folder: Path, arguments: list[str]) -> None:
    """Serve requests until the parent closes the pipe. Arguments: cores (``2,3``) and threads."""
    _die_with_parent()
    cores, threads = arguments
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    # Ctrl-C at the terminal reaches the whole group; the parent ends us when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    child = Child(folder, int(threads))
    for line in sys.stdin:
        answers.write(json.dumps(child.answer(json.loads(line))) + "\n")
        answers.flush()


def _die_with_parent() -> None:
    """A parent that was killed cannot end us, even while a kernel hangs."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
