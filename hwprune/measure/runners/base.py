"""What every way to a device has in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from hwprune.errors import DeviceLostError, MeasureError
from hwprune.measure.conditions import Conditions
from hwprune.measure.guard import CoreTimes
from hwprune.measure.sampling import Sampled
from hwprune.measure.stopping import MeasureProfile

Unit = Literal["ns", "instructions", "cycles"]
Provenance = Literal["measured", "emulated", "simulated", "estimated"]


class Runner(Protocol):
    """Runs built kernels on a device.

    What its numbers are belongs to the runner's type: no caller can relabel an emulated count as
    a measured time.
    """

    @property
    def unit(self) -> Unit:
        """Unit of every number."""
        ...

    @property
    def provenance(self) -> Provenance:
        """Kind of every number."""
        ...

    @property
    def threads(self) -> int:
        """Threads the kernels use."""
        ...

    def measure(self, library: Path, profile: MeasureProfile) -> Sampled:
        """Time one library.

        Raises
        ------
        MeasureError
            It crashed, hung or could not be loaded; the runner can be used again.
        """
        ...

    def core_times(self) -> CoreTimes | None:
        """The scheduler's books of the measuring cores, where there are any."""
        ...

    def conditions(self) -> Conditions | None:
        """Clock, heat, throttling and load of the device now, where they can be read."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


@runtime_checkable
class Farm(Runner, Protocol):
    """A runner with several devices of one kind, which share out a series of libraries."""

    def measure_each(
        self, libraries: Sequence[Path], profile: MeasureProfile
    ) -> Iterator[tuple[Path, Sampled | MeasureError]]:
        """Time libraries, each once; yields them with their timing or failure as they end.

        Raises
        ------
        DeviceLostError
            No device is left. Those that were not yielded were not timed.
        """
        ...


def measure_each(
    runner: Runner, libraries: Sequence[Path], profile: MeasureProfile
) -> Iterator[tuple[Path, Sampled | MeasureError]]:
    """Time libraries with whatever the runner has: in turn, or shared out over its devices.

    Raises
    ------
    DeviceLostError
        There is nothing to time them on any more.
    """
    if isinstance(runner, Farm):
        yield from runner.measure_each(libraries, profile)
        return
    for library in libraries:
        try:
            outcome: Sampled | MeasureError = runner.measure(library, profile)
        except DeviceLostError:
            raise
        except MeasureError as error:
            outcome = error
        yield library, outcome
