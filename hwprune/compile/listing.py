"""The kernels of a network as a list: rule, tiling, work and, where measured, share of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwprune.compile.describe import Description, describe
from hwprune.compile.pipeline import PACKED, known_pipeline
from hwprune.compile.shapes import kernel_flops
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.target import Target


@dataclass(frozen=True)
class KernelLine:
    """One kernel call of a network.

    ``us`` is the measured time of the kernel alone in microseconds, ``share`` its part of the sum
    of all kernels that have one (0 to 1); both are None where nothing was measured. ``gflop`` is the
    kernel's work in 1e9 floating point operations, ``gflop_per_s`` its rate.
    """

    name: str
    label: str
    rule: str
    tiling: str
    falls_back: bool
    gflop: float
    us: float | None
    gflop_per_s: float | None
    share: float | None

    def figures(self) -> dict[str, Any]:
        """Everything but name and label, for JSON."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "label")}


def list_kernels(
    steps: Sequence[tuple[str, KernelSpec]],
    target: Target,
    times_ns: Mapping[str, float] | None = None,
    choices: ChoiceTable | None = None,
) -> list[KernelLine]:
    """Describe every kernel of a network.

    Parameters
    ----------
    steps
        Name and kernel in execution order.
    target
        CPU target.
    times_ns
        Measured nanoseconds by kernel digest; kernels may be missing.
    choices
        What a search found; None: defaults everywhere.

    Raises
    ------
    CompileError
        The target names an unknown pipeline.
    """
    times = {digest: ns for digest, ns in (times_ns or {}).items() if ns > 0}
    total = sum(times.get(spec.digest(), 0.0) for _, spec in steps)
    described: dict[KernelSpec, Description] = {}
    lines: list[KernelLine] = []
    for name, spec in steps:
        if spec not in described:
            described[spec] = _describe(spec, target, choices or ChoiceTable())
        found = described[spec]
        ns = times.get(spec.digest())
        flops = _flops(spec)
        lines.append(
            KernelLine(
                name=name,
                label=spec.label(),
                rule=found.rule,
                tiling=found.tiling,
                falls_back=found.falls_back,
                gflop=flops / 1e9,
                us=None if ns is None else ns / 1e3,
                gflop_per_s=None if ns is None else flops / ns,
                share=None if ns is None else ns / total,
            )
        )
    return lines


def fallback_share(lines: Sequence[KernelLine]) -> float | None:
    """Part of the measured time spent in kernels that no rule schedules; None: nothing measured."""
    shares = [(line.share, line.falls_back) for line in lines if line.share is not None]
    return sum(share for share, falls in shares if falls) if shares else None


def _describe(spec: KernelSpec, target: Target, choices: ChoiceTable) -> Description:
    if target.backend == "onnxruntime" or known_pipeline(target) == PACKED:
        return describe(spec, target, choices.get(spec))
    return Description(target.pipeline, "TVM's default lowering, operator by operator")


def _flops(spec: KernelSpec) -> int:
    try:
        return kernel_flops(spec)
    except UnsupportedOperatorError:
        return 0  # left to TVM or not compiled: nobody counts its work
