"""What every way to a device has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

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
