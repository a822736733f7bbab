"""One kernel's timings in a sweep: parts of its samples, taken in passes over the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hwprune.measure.build import BuildJob
from hwprune.measure.sampling import Sampled
from hwprune.measure.stats import summarise
from hwprune.measure.stopping import MeasureProfile

#: How the criterion ends that only a sweep that was cut off leaves unmet.
PASSES = " passes"


@dataclass
class Series:
    """The parts that a kernel's samples were taken in.

    ``parts`` are good ones. ``spoiled`` were taken while the machine was disturbed: they count only
    where nothing better comes.
    """

    job: BuildJob
    parts: list[Sampled] = field(default_factory=list[Sampled])
    spoiled: list[Sampled] = field(default_factory=list[Sampled])

    def spoil(self) -> None:
        """Nothing that was taken so far is good."""
        self.spoiled += self.parts
        self.parts = []

    def wants_more(self, profile: MeasureProfile) -> bool:
        """Whether another pass is due."""
        if len(self.parts) < profile.passes:
            return True
        return len(self.parts) < profile.max_passes and unmet(self.parts, profile) is not None


def samples_of(parts: Sequence[Sampled]) -> list[float]:
    """All samples, in the order in which they were taken."""
    return [value for part in parts for value in part.samples_ns]


def lengths_of(parts: Sequence[Sampled]) -> list[int]:
    """Number of samples of each part."""
    return [len(part.samples_ns) for part in parts]


def unmet(parts: Sequence[Sampled], profile: MeasureProfile, width: float | None = None) -> str | None:
    """The criterion of the profile that all parts together do not meet, in words.

    ``width`` is that of the median's confidence interval over the median, where it is known.
    """
    elapsed = sum(part.elapsed_s for part in parts)
    if len(parts) < profile.passes:
        return f"{len(parts)} of {profile.passes}{PASSES}"
    samples = samples_of(parts)
    if width is None:
        # What changed between the parts is in the interval.
        width = summarise(samples, passes=lengths_of(parts)).relative_width
    return profile.stopping.unmet(samples, elapsed, width)
