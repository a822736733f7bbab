"""The machine's measured peak of fused multiply-adds, which no kernel can pass.

    python -m bench.fma_peak

A loop of independent multiply-adds on vectors that never leave their registers, built by TVM for
the target like any kernel. The best of several runs counts: nothing but the core's clock and its
multiply-add units can make it faster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from hwprune.compile.build import build_shared
from hwprune.compile.tvm_api import Schedule, relax, te, tirx
from hwprune.compile.vm_runtime import VirtualMachine
from hwprune.measure.device import describe_device
from hwprune.target import Target, load_target, require_runnable

#: Steps of the loop in one run: about two milliseconds.
STEPS = 400_000
#: Multiply-adds that are in flight at once need at least latency x units = 8 accumulators; no more
#: than this many, so that AVX2's 16 registers hold them.
ACCUMULATORS = 12


def fma_peak_gflops(target: Target, runs: int = 40) -> float:
    """Best rate of multiply-adds in 1e9 operations a second, one thread.

    Raises
    ------
    TargetError
        This machine lacks the target's instructions.
    """
    require_runnable(target)
    with tempfile.TemporaryDirectory(prefix="hwprune-peak-") as folder:
        library = Path(folder) / "peak.so"
        build_shared(_module(target), target, library)
        machine = VirtualMachine(library, [])
        machine.set_inputs([np.full(target.simd_lanes, 0.5, np.float32)])
        machine.invoke()
        best = float("inf")
        for _ in range(runs):
            begin = time.perf_counter_ns()
            machine.invoke()
            best = min(best, time.perf_counter_ns() - begin)
    return 2.0 * STEPS * ACCUMULATORS * target.simd_lanes / best


def _module(target: Target) -> object:
    """``out[j, i]``: the value of ``v -> 0.75 v + in[i]`` repeated, for every accumulator ``j``."""
    lanes = target.simd_lanes
    given = te.placeholder((lanes,), "float32", name="given")
    # A "sum" whose combination is the multiply-add itself, so that no step can be left out.
    share, zero = tirx.const(0.75, "float32"), tirx.const(0.0, "float32")
    chain = te.comm_reducer(lambda v, x: v * share + x, lambda dtype: zero, name="chain")
    step = te.reduce_axis((0, STEPS), name="step")
    result = te.compute((ACCUMULATORS, lanes), lambda j, i: chain(given[i], axis=step), name="acc")
    schedule = Schedule(te.create_prim_func([given, result]))
    block = schedule.get_sblock("acc")
    j, i, k = schedule.get_loops(block)
    schedule.reorder(k, j, i)
    cached = schedule.cache_write(block, 0, "local")
    schedule.vectorize(schedule.get_loops(cached)[-1])
    schedule.unroll(j)
    schedule.vectorize(i)
    schedule.decompose_reduction(block, k)
    builder = relax.BlockBuilder()
    function = builder.add_func(schedule.mod["main"].with_attr("global_symbol", "peak"), "peak")
    argument = relax.Var("given", relax.TensorType((lanes,), "float32"))
    with builder.function("main", [argument]):
        with builder.dataflow():
            kind = relax.TensorType((ACCUMULATORS, lanes), "float32")
            final = builder.emit_output(relax.call_tir(function, [argument], kind))
        builder.emit_func_output(final)
    return builder.get()


def plausible_gflops(target: Target) -> float | None:
    """Two multiply-add units of the target's width at the clock the operating system names.

    A processor may run faster than that clock, by a half or so: a peak outside one to 1.6 times
    this figure (half of it on cores with one unit) was not measured on multiply-adds alone.
    """
    mhz = describe_device().frequency_mhz
    return None if mhz is None else 2 * target.simd_lanes * 2 * mhz / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", default="host")
    target = load_target(parser.parse_args().target, threads=1)
    measured, expected = fma_peak_gflops(target), plausible_gflops(target)
    print(json.dumps({"isa": target.isa, "fma_peak_gflops": measured, "two_units_at_named_clock": expected}))


if __name__ == "__main__":
    main()
