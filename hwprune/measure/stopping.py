"""When a kernel has been timed enough, and the profiles that users choose from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hwprune.measure.stats import quick_relative_width, summarise

#: A quick estimate of the interval's width this many times too wide spares the bootstrap.
CLEARLY_TOO_WIDE = 1.5


@dataclass(frozen=True)
class Stopping:
    """All three criteria must be met, or time runs out.

    Attributes
    ----------
    min_samples
        Samples at least; as many are taken even after ``timeout_s``, up to ``floor_samples``.
    min_time_s
        Time spent sampling at least.
    relative_ci
        Width of the median's confidence interval over the median, at most.
    timeout_s
        Sampling ends after this long whatever is unmet.
    floor_samples
        The timeout counts only once this many samples exist.
    """

    min_samples: int
    min_time_s: float
    relative_ci: float
    timeout_s: float
    floor_samples: int = 5

    def unmet(self, samples: Sequence[float], elapsed_s: float, width: float | None = None) -> str | None:
        """The first criterion that is not met, in words, or ``None``.

        ``width`` is that of the median's confidence interval over the median, where it is known.
        """
        if len(samples) < self.min_samples:
            return f"{len(samples)} of {self.min_samples} samples"
        if elapsed_s < self.min_time_s:
            return f"{elapsed_s:.3g} of {self.min_time_s:.3g} s sampled"
        if width is None:
            width = quick_relative_width(samples)
            if width <= CLEARLY_TOO_WIDE * self.relative_ci:
                width = summarise(samples).relative_width
        if width > self.relative_ci:
            return f"confidence interval {width:.1%} wide, {self.relative_ci:.1%} asked"
        return None

    def timed_out(self, samples: Sequence[float], elapsed_s: float) -> bool:
        """Whether to give up on what is unmet."""
        return elapsed_s >= self.timeout_s and len(samples) >= self.floor_samples


@dataclass(frozen=True)
class MeasureProfile:
    """How much care a measurement takes.

    Attributes
    ----------
    name
        What users type.
    sample_s
        One sample lasts at least about this long; shorter kernels are called several times.
    chunk
        Samples taken between two looks at the criteria.
    max_warmup
        Warm-up samples at most; fewer when three in a row agree.
    stopping
        When to stop.
    rounds
        Rounds of an interleaved comparison, and samples of each contender in each round.
    max_disturbance
        Share of the measuring cores that others may use before a row is untrusted.
    job_timeout_s
        A worker that has not answered after this long has hung.
    check_values
        Whether what each kernel returns is compared with PyTorch before it is timed. That its values
        are finite is always looked at.
    passes
        A kernel's samples are taken in this many parts, with all other kernels of a batch in between:
        what lasts a few seconds then hits one part only.
    max_passes
        Parts at most; more than ``passes`` while the interval over all parts is too wide.
    """

    name: str
    sample_s: float
    chunk: int
    max_warmup: int
    stopping: Stopping
    rounds: int
    samples_per_round: int
    max_disturbance: float
    job_timeout_s: float
    check_values: bool = False
    passes: int = 1
    max_passes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """For the wire to the worker process."""
        return asdict(self)

    def one_pass(self) -> MeasureProfile:
        """The share of one pass in the criteria."""
        if self.passes == 1:
            return self
        s, parts = self.stopping, self.passes
        share = Stopping(
            min_samples=-(-s.min_samples // parts),
            min_time_s=s.min_time_s / parts,
            relative_ci=s.relative_ci * math.sqrt(parts),
            timeout_s=s.timeout_s / parts,
            floor_samples=-(-s.floor_samples // parts),
        )
        return replace(self, stopping=share)

    def criteria(self) -> str:
        """Its criteria in words, for help texts."""
        s = self.stopping
        times = f" in {self.passes} passes" if self.passes > 1 else ""
        limit = s.timeout_s * self.max_passes / self.passes
        checked = ", values compared with PyTorch" if self.check_values else ""
        return (
            f"at least {s.min_samples} samples and {s.min_time_s:g} s{times}, median's 95 % interval "
            f"within {s.relative_ci:.1%}, or {limit:.3g} s; others may use {self.max_disturbance:.0%} "
            f"of the cores{checked}"
        )

    @staticmethod
    def from_dict(data: dict[str, Any]) -> MeasureProfile:
        """Inverse of :meth:`to_dict`."""
        values: dict[str, Any] = {**data, "stopping": Stopping(**data["stopping"])}
        return MeasureProfile(**values)


#: Under a tenth of a second a kernel: good enough to rank widths.
QUICK = MeasureProfile("quick", 1e-3, 8, 8, Stopping(16, 0.02, 0.03, 0.06), 10, 3, 0.3, 20.0)
#: For tables that are kept and shared. A sample of a large kernel takes 10 to 20 ms: more than 30 of
#: them make it dear, and its interval no narrower than is asked.
TABLE = MeasureProfile("table", 2e-3, 16, 20, Stopping(30, 0.2, 0.02, 1.0), 20, 5, 0.15, 60.0, True, 3, 4)
#: For numbers in a README.
PUBLISH = MeasureProfile(
    "publish", 5e-3, 25, 40, Stopping(200, 1.0, 0.005, 10.0), 40, 10, 0.05, 300.0, True, 5, 10
)

PROFILES: dict[str, MeasureProfile] = {p.name: p for p in (QUICK, TABLE, PUBLISH)}
