"""The other side of :class:`hwprune.measure.process.WorkerProcess`.

``python -m hwprune.measure.worker CORES HIDDEN`` pins itself, then answers one JSON request a line. It
imports nothing heavy by itself: a request names the *engine* (``package.module:Class`` or
``package.module:function``) that does the work.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TextIO


class Worker:
    """Holds the engine that is loaded at the moment and serves requests by their ``do``."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._verbs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "about": self._about,
            "ask": self._ask,
            "calibrate": self._calibrate,
            "call": self._call,
            "load": self._load,
            "measure": self._measure,
            "outputs": self._outputs,
            "time": self._time,
        }

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Serve one request; whatever goes wrong becomes the answer's ``error``."""
        try:
            return self._verbs[message["do"]](message)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _about(self, _: dict[str, Any]) -> dict[str, Any]:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        threads = os.environ.get("TVM_NUM_THREADS")
        return {"pid": os.getpid(), "cores": cores, "threads": threads, "modules": sorted(sys.modules)}

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer (a dictionary of JSON values) of a method of the engine that is loaded."""
        return getattr(self._engine, message["method"])(**message["arguments"])

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        """Call a function once; used for building."""
        resolve(message["function"])(**message["arguments"])
        return {}

    def _calibrate(self, message: dict[str, Any]) -> dict[str, Any]:
        """Find the number of runs per sample, and warm up with it."""
        from hwprune.measure.sampling import calibrate, warm_up

        sample_s = float(message["sample_s"])
        number = calibrate(self._engine, sample_s)
        warm_up(self._engine, number, limit=20, limit_s=100 * sample_s)
        return {"number": number}

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        self._engine = None
        self._engine = resolve(message["engine"])(**message["arguments"])
        return {}

    def _measure(self, message: dict[str, Any]) -> dict[str, Any]:
        """Load, warm up, sample until the profile is content. Samples are ns per call.

        An engine with a method ``nonfinite`` is asked how many values of its output are not finite.
        """
        from hwprune.measure.sampling import sample
        from hwprune.measure.stopping import MeasureProfile

        self._load(message)
        try:
            sampled = sample(self._engine, MeasureProfile.from_dict(message["profile"]))
            nonfinite = getattr(self._engine, "nonfinite", int)()
            return replace(sampled, nonfinite=nonfinite).to_dict()
        finally:
            self._engine = None

    def _outputs(self, message: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        outputs = self._engine.outputs()
        np.savez(message["path"], *outputs)
        return {"count": len(outputs)}

    def _time(self, message: dict[str, Any]) -> dict[str, Any]:
        samples = self._engine.time(int(message["number"]), int(message["repeat"]))
        return {"samples_ns": [s * 1e9 for s in samples]}


def resolve(name: str) -> Any:
    """The object that ``package.module:attribute`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


class _Hidden:
    """An import finder for which some packages do not exist."""

    def __init__(self, packages: set[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse the hidden packages, leave all others to the next finder."""
        if name.partition(".")[0] in self._packages:
            raise ModuleNotFoundError(f"{name} is hidden in this process", name=name)


def hide(packages: set[str]) -> None:
    """Make packages look as if they were not installed.

    ``tvm_ffi`` imports torch wherever it finds it: a second of start-up, and thread pools that
    have no business beside a measurement.
    """
    sys.meta_path.insert(0, _Hidden(packages))


def die_with_parent() -> None:
    """A parent that was killed cannot end us, even while an engine hangs."""
    parent = os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    elif parent > 1:

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1.0)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def main(cores: str, hidden: str) -> None:
    """Serve until the parent closes the pipe. Both arguments are lists with commas."""
    # The whole process group gets a Ctrl-C; the parent decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if cores and hasattr(os, "sched_setaffinity"):
        # Before any library starts its threads: they inherit it.
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    hide({name for name in hidden.split(",") if name})
    # Libraries write to stdout as they like; answers go where they cannot reach.
    channel: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        channel.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        channel.flush()


if __name__ == "__main__":
    die_with_parent()
    main(*sys.argv[1:3])
