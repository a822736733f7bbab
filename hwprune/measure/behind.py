"""Which kernels of a network stay behind: what they could take, judged by the network's best kernels.

Some kernels compute, others only move data, so each is held against two rates that kernels of the
same network, on this machine, have shown to be possible: the most operations per second and the most
bytes per second that any of them reaches. What a kernel takes beyond the longer of the two resulting
times is what better code could gain at most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwprune.compile.shapes import infer_shapes, kernel_flops
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelSpec

#: Kernels below this share of the network's time set no standard: their times are mostly overhead.
NOTABLE = 0.01
#: What could be gained from a kernel must be at least this share of the network's time.
WORTHWHILE = 0.01


@dataclass(frozen=True)
class Behind:
    """A kernel that stays behind, and why.

    ``calls`` is how often the network calls it, ``ns`` what one call takes, ``possible_ns`` what it
    would take at the rates of the network's best kernels, ``share`` its part of the network's time.
    """

    spec: KernelSpec
    calls: int
    ns: float
    possible_ns: float
    share: float
    reason: str

    @property
    def lost_ns(self) -> float:
        """Nanoseconds of the network's time that it could gain at most."""
        return self.calls * max(0.0, self.ns - self.possible_ns)


def kernels_behind(specs: Sequence[KernelSpec], times_ns: Mapping[str, float]) -> list[Behind]:
    """Kernels with something to gain, the most first.

    Parameters
    ----------
    specs
        Kernels of the network, as often as they are called.
    times_ns
        Measured nanoseconds of one call by digest; kernels without one are left out.
    """
    calls = Counter(spec.digest() for spec in specs)
    timed = {s.digest(): s for s in specs if times_ns.get(s.digest(), 0.0) > 0}
    total = sum(calls[digest] * times_ns[digest] for digest in timed)
    shares = {digest: calls[digest] * times_ns[digest] / total for digest in timed}
    notable = [digest for digest in timed if shares[digest] >= NOTABLE] or list(timed)
    work = {digest: (_flops(spec), _bytes(spec)) for digest, spec in timed.items()}
    flops_best = max((work[d][0] / times_ns[d] for d in notable), default=0.0)
    bytes_best = max((work[d][1] / times_ns[d] for d in notable), default=0.0)
    found: list[Behind] = []
    for digest, spec in timed.items():
        flops, moved = work[digest]
        computing = flops / flops_best if flops_best else 0.0
        moving = moved / bytes_best if bytes_best else 0.0
        ns = times_ns[digest]
        if computing >= moving and flops:
            reason = f"{flops / ns:.3g} of {flops_best:.3g} GFLOP/s"
        else:
            reason = f"{moved / ns:.3g} of {bytes_best:.3g} GB/s"
        if spec.anchor == "fallback":
            reason += ", unscheduled"
        reason += f", {shares[digest]:.0%} of the time"
        found.append(Behind(spec, calls[digest], ns, max(computing, moving), shares[digest], reason))
    found = [behind for behind in found if behind.lost_ns >= WORTHWHILE * total]
    return sorted(found, key=lambda behind: (-behind.lost_ns, behind.spec.digest()))


def _flops(spec: KernelSpec) -> int:
    try:
        return kernel_flops(spec)
    except UnsupportedOperatorError:
        return 0


def _bytes(spec: KernelSpec) -> int:
    """Bytes of all operands and of the result, each once."""
    return 4 * sum(math.prod(shape) for shape in (*(i.shape for i in spec.inputs), infer_shapes(spec)[-1]))
