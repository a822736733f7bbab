"""Schedule rules: the first one that does not answer False schedules the kernel.

Every rule gets the same prepared schedule (point-by-point stages inlined) and leaves loops that
LLVM turns into straight vector code. Parallel loops exist only if the target has several threads.
"""

from __future__ import annotations

from collections.abc import Callable

from hwprune.compile.emitter import Emitted
from hwprune.compile.prepared import Prepared, pointwise, prepare
from hwprune.compile.schedule_conv import conv_rule
from hwprune.compile.schedule_gather import gather_rule
from hwprune.compile.schedule_norm import norm_rule
from hwprune.compile.schedule_reduce import linear_rule, reduce_rule
from hwprune.compile.schedule_window import window_rule
from hwprune.compile.schedule_winograd import winograd_rule
from hwprune.compile.tvm_api import PrimFunc
from hwprune.target import Target

Rule = Callable[[Prepared], bool]


def elementwise_rule(p: Prepared) -> bool:
    """No reduction at all."""
    return p.emitted.family == "elementwise"


def fallback_rule(p: Prepared) -> bool:
    """Any reduction: vectors over the last axis, accumulated in place."""
    s, acc = p.schedule, p.blocks["acc"]
    loops = s.get_loops(acc)
    rank = len(s.get(acc).writes[0].region)
    spatial, reduction = loops[:rank], loops[rank:]
    s.reorder(*spatial[:-1], *reduction, spatial[-1])
    s.vectorize(spatial[-1])
    p.parallel(spatial[:-1])
    s.decompose_reduction(acc, s.get_loops(acc)[1])
    return True


RULES: tuple[Rule, ...] = (
    conv_rule,
    winograd_rule,
    window_rule,
    reduce_rule,
    linear_rule,
    norm_rule,
    gather_rule,
    elementwise_rule,
    fallback_rule,
)


def schedule_kernel(emitted: Emitted, target: Target) -> PrimFunc:
    """Scheduled PrimFunc of emitted stages."""
    p = prepare(emitted, target)
    next(rule for rule in RULES if rule(p))
    # A rule that places a stage inside another one takes it out of ``blocks``.
    for name, block in p.blocks.items():
        if name != "acc":
            pointwise(p, block)
    function = p.schedule.mod["main"]
    for finish in p.finishers:
        function = finish(function)
    return function
