"""Several remote devices of one kind as one runner.

Kernels wait in one queue, so a slow device takes fewer. A kernel whose connection broke off goes
back to the queue; the second time, the kernel is to blame.
"""

from __future__ import annotations

import logging
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from hwprune.errors import DeviceLostError, MeasureError
from hwprune.measure.conditions import Conditions
from hwprune.measure.guard import CoreTimes
from hwprune.measure.runners.base import Provenance, Unit
from hwprune.measure.runners.rpc import RpcRunner
from hwprune.measure.sampling import Sampled
from hwprune.measure.sentinel import DRIFT_LIMIT
from hwprune.measure.stopping import MeasureProfile

#: Connections that a kernel may cost before it counts as failed.
STRIKES = 2

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Slot:
    """A device and the thread that talks to it: a worker process dies with the thread it came from."""

    def __init__(self, runner: RpcRunner) -> None:
        self.runner = runner
        self.lost: str | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"rpc {runner.name}")

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        return self._thread.submit(work)

    def close(self) -> None:
        self.runner.close()  # ends a request that is under way
        self._thread.shutdown(wait=True, cancel_futures=True)


class RpcFarm:
    """Wall-clock nanoseconds of a kind of device.

    Parameters
    ----------
    runners
        One for every device; closed with the farm.
    name
        Of the farm, for messages.
    count
        How many devices there are now, where somebody knows (a tracker).
    """

    unit: Unit = "ns"
    provenance: Provenance = "measured"

    def __init__(
        self, runners: Sequence[RpcRunner], name: str, count: Callable[[], int] | None = None
    ) -> None:
        self.name = name
        self.threads = runners[0].threads
        self._slots = [_Slot(runner) for runner in runners]
        self._compared = False
        self._count, self._known = count, len(runners)

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        """Time one library on every device; the slowest device's timing.

        What is timed alone shows whether the machine has changed. The kernels around it come from
        all devices, so the worst of them counts.

        Raises
        ------
        MeasureError
            It could not be timed on any device that is left.
        DeviceLostError
            No device is left.
        """
        found: list[tuple[str, Sampled]] = []
        failures: list[MeasureError] = []
        pending = [
            (slot, slot.submit(_work(slot, library, profile))) for slot in self._slots if not slot.lost
        ]
        for slot, future in pending:
            outcome = future.result()
            if isinstance(outcome, DeviceLostError):
                self._drop(slot, outcome)
            elif isinstance(outcome, MeasureError):
                failures.append(outcome)
            else:
                found.append((slot.runner.name, outcome))
        if not found and failures:
            raise failures[0]
        if not found:
            raise self._nobody()
        self._compare(found)
        return max((sampled for _, sampled in found), key=_median)

    def measure_each(
        self, libraries: Sequence[Path], profile: MeasureProfile
    ) -> Iterator[tuple[Path, Sampled | MeasureError]]:
        """See :class:`hwprune.measure.runners.base.Farm`."""
        self._return()
        queue, strikes = deque(libraries), Counter[Path]()
        running: dict[Future[Sampled | MeasureError], tuple[_Slot, Path]] = {}
        try:
            while queue or running:
                busy = {slot for slot, _ in running.values()}
                for slot in self._slots:
                    if queue and not slot.lost and slot not in busy:
                        library = queue.popleft()
                        running[slot.submit(_work(slot, library, profile))] = slot, library
                if not running:
                    raise self._nobody()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    slot, library = running.pop(future)
                    outcome = future.result()
                    if isinstance(outcome, DeviceLostError):
                        strikes[library] += 1
                        self._drop(slot, outcome)
                        if strikes[library] < STRIKES:
                            queue.append(library)
                            continue
                        outcome = MeasureError(f"it cost {STRIKES} connections; {outcome.message}")
                    yield library, outcome
        finally:
            wait(running)
        self._recount()

    def core_times(self) -> CoreTimes | None:
        """None: the books of a device's scheduler do not tell its session from others'."""
        return None

    def conditions(self) -> Conditions | None:
        """Of all devices together: the hottest, the busiest, the sum of what was throttled."""
        pending = [slot.submit(slot.runner.conditions) for slot in self._slots if not slot.lost]
        read = [reading for future in pending if (reading := future.result()) is not None]
        return _together(read) if read else None

    def close(self) -> None:
        """Let go of all devices."""
        for slot in self._slots:
            slot.close()

    def _drop(self, slot: _Slot, error: DeviceLostError) -> None:
        """A connection broke off: find out whether the device behind it still answers."""
        if slot.submit(slot.runner.alive).result():
            _log.warning("%s; %s goes on", error.message, slot.runner.name)
            return
        slot.lost = error.message
        left = sum(not other.lost for other in self._slots)
        _log.warning("%s; %d of %d devices are left", error.message, left, len(self._slots))

    def _return(self) -> None:
        """Devices that were lost may be back."""
        for slot in self._slots:
            if slot.lost and slot.submit(slot.runner.alive).result():
                _log.warning("device %s is back", slot.runner.name)
                slot.lost = None

    def _recount(self) -> None:
        """A tracker hands out whatever device is free, so one that is gone is not missed otherwise."""
        now = self._known if self._count is None else self._count()
        if now < self._known:
            _log.warning("%d of %d %s are left", now, len(self._slots), self.name)
        self._known = now

    def _nobody(self) -> DeviceLostError:
        reasons = "; ".join(dict.fromkeys(slot.lost or "" for slot in self._slots))
        return DeviceLostError(
            f"no device is left of {self.name}: {reasons}",
            hint="what was measured is kept: start the devices' servers (python -m tvm.exec.rpc_server) and"
            " run the same command again",
        )

    def _compare(self, found: Sequence[tuple[str, Sampled]]) -> None:
        """Say once if devices of one kind differ: rows then depend on who timed them."""
        if self._compared or len(found) < 2:
            return
        self._compared = True
        times = {name: _median(sampled) for name, sampled in found}
        fastest, slowest = min(times.values()), max(times.values())
        if slowest > (1 + DRIFT_LIMIT) * fastest:
            listed = ", ".join(f"{name} {ns / 1e3:.1f} us" for name, ns in times.items())
            _log.warning(
                "devices of %s differ by %.0f %%: %s", self.name, 100 * (slowest / fastest - 1), listed
            )


def _work(slot: _Slot, library: Path, profile: MeasureProfile) -> Callable[[], Sampled | MeasureError]:
    def work() -> Sampled | MeasureError:
        try:
            return slot.runner.measure(library, profile)
        except MeasureError as error:
            return error

    return work


def _median(sampled: Sampled) -> float:
    return statistics.median(sampled.samples_ns)


def _together(read: Sequence[Conditions]) -> Conditions:
    throttled = [r.throttled for r in read if r.throttled is not None]
    turbo = [r.turbo for r in read if r.turbo is not None]
    governors = sorted({r.governor for r in read if r.governor is not None})
    return Conditions(
        at=read[0].at,
        frequency_mhz=tuple(mhz for r in read for mhz in r.frequency_mhz),
        governor=",".join(governors) or None,
        temperature_c=max((r.temperature_c for r in read if r.temperature_c is not None), default=None),
        load=max((r.load for r in read if r.load is not None), default=None),
        throttled=sum(throttled) if throttled else None,
        turbo=all(turbo) if turbo else None,
    )
