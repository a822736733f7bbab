"""Kernels whose time is a function of their spec; builders and runners for them without TVM."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hwprune.errors import MeasureError
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.measure.build import BuildJob
from hwprune.measure.conditions import Conditions
from hwprune.measure.guard import CoreTimes
from hwprune.measure.runners.base import Provenance, Unit
from hwprune.measure.sampling import Sampled
from hwprune.measure.stopping import MeasureProfile, Stopping
from hwprune.target import Target

#: Never distrusts anything: the machine that runs the tests may be as busy as it likes.
FAST = MeasureProfile("test", 1e-4, 4, 3, Stopping(4, 0.0, 1e9, 0.2, 2), 3, 2, 9.0, 20.0)
IMPATIENT = MeasureProfile("impatient", 1e-4, 4, 3, Stopping(4, 0.0, 1e9, 0.2, 2), 3, 2, 9.0, 1.5)
#: With limits as in earnest, for runners whose clock and books are made up.
QUIET = MeasureProfile("quiet", 1e-4, 4, 3, Stopping(4, 0.0, 1e9, 0.2, 2), 3, 2, 0.3, 20.0)

BROKEN_BUILD, CRASHING_BUILD, CRASHING_RUN, HANGING_RUN, BROKEN_RUN = 901, 902, 903, 904, 905

TARGET = Target(name="test", kind="cpu", tvm={"kind": "llvm"}, threads=1)


def conv(o: int, i: int = 8, size: int = 10, stride: int = 1) -> KernelSpec:
    """A 3x3 convolution with ReLU."""
    attributes = (
        ("dilation", (1, 1)),
        ("groups", 1),
        ("padding", (1, 1, 1, 1)),
        ("stride", (stride, stride)),
    )
    return KernelSpec(
        (KernelInput((1, i, size, size), "data"), KernelInput((o, i, 3, 3), "weight")),
        (KernelOp("conv2d", (0, 1, -1), attributes), KernelOp("relu", (2,))),
    )


def linear(o: int, k: int) -> KernelSpec:
    return KernelSpec(
        (KernelInput((1, k), "data"), KernelInput((o, k), "weight")), (KernelOp("linear", (0, 1, -1)),)
    )


def width(spec: KernelSpec) -> int:
    return next(i.shape[0] for i in spec.inputs if i.role == "weight")


def fake_seconds(spec: KernelSpec) -> float:
    """A staircase of eights."""
    return -(-width(spec) // 8) * 1e-5


def fake_build(spec: KernelSpec, target: Target, path: Path, copies: int) -> None:
    """The 'library' is the spec."""
    if width(spec) == BROKEN_BUILD:
        raise ValueError("no such schedule")
    if width(spec) == CRASHING_BUILD:
        os.kill(os.getpid(), signal.SIGSEGV)
    path.write_text(json.dumps({"spec": spec.canonical(), "copies": copies, "target": target.name}))


def give_up() -> None:
    raise SystemExit("out of luck")


class FakeEngine:
    """Runs inside a worker: busy for as long as the spec says, or misbehaves as it says."""

    def __init__(self, path: str) -> None:
        spec = KernelSpec.parse(json.loads(Path(path).read_text())["spec"])
        self._seconds = fake_seconds(spec)
        if width(spec) == BROKEN_RUN:
            raise ValueError("bad library")
        if width(spec) == CRASHING_RUN:
            os.kill(os.getpid(), signal.SIGSEGV)
        if width(spec) == HANGING_RUN:
            time.sleep(60)

    def time(self, number: int, repeat: int) -> list[float]:
        print("libraries print what they like", flush=True)
        for _ in range(repeat):
            end = time.perf_counter() + number * self._seconds
            while time.perf_counter() < end:
                pass
        return [self._seconds] * repeat


class InlineBuilder:
    """Builds in this process."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[BuildJob, str | None]]:
        for job in jobs:
            try:
                fake_build(job.spec, TARGET, job.path, job.copies)
            except ValueError as error:
                yield job, f"ValueError: {error}"
            else:
                self.built.append(job.spec.digest())
                yield job, None

    def close(self) -> None: ...


class InlineRunner:
    """Times in this process, on a clock that ``factor`` can bend: called with (spec, call number)."""

    unit: Unit = "ns"
    provenance: Provenance = "measured"
    threads = 1

    def __init__(self, factor: Callable[[KernelSpec, int], float] = lambda spec, n: 1.0) -> None:
        self.timed: list[str] = []
        self.foreign_ticks = 0
        self.cpu_share = 1.0
        self._factor = factor
        self._readings = 0
        #: What :meth:`conditions` tells, one after the other; the last one for ever.
        self.readings: list[Conditions] = []

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        spec = KernelSpec.parse(json.loads(library.read_text())["spec"])
        self.timed.append(spec.digest())
        if width(spec) in (CRASHING_RUN, HANGING_RUN, BROKEN_RUN):
            raise MeasureError("timing worker died with SIGSEGV")
        ns = fake_seconds(spec) * 1e9 * self._factor(spec, len(self.timed))
        return Sampled([ns, ns, ns, ns * 1.01], 1, 1, 0.0, self.cpu_share, None)

    def core_times(self) -> CoreTimes:
        self._readings += 1
        return CoreTimes(self._readings * self.foreign_ticks, 0, self._readings * 100, 0, 1)

    def conditions(self) -> Conditions | None:
        return self.readings.pop(0) if len(self.readings) > 1 else (self.readings or [None])[0]

    def close(self) -> None: ...


class FakeContender:
    """An engine of a comparison: adds ``offset`` to its input and takes ``seconds``."""

    def __init__(
        self, inputs: str, threads: int, seconds: float, offset: float = 0.0, fail: str = ""
    ) -> None:
        if fail == "load":
            raise RuntimeError("cannot load this")
        with np.load(inputs) as data:
            self._array = data["arr_0"] + np.float32(offset)
        self._seconds, self._fail, self._calls = seconds, fail, 0

    def outputs(self) -> list[np.ndarray]:
        return [self._array]

    def time(self, number: int, repeat: int) -> list[float]:
        self._calls += 1
        if self._fail == "later" and repeat > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(min(number * self._seconds * repeat, 0.01))
        return [self._seconds] * repeat
