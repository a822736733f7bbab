"""Kernels whose loops MetaSchedule has found: replaying a recorded schedule.

The choice ``tuned`` carries the schedule as text (its *trace*): JSON with the digest of the kernel and,
for each of its PrimFuncs, the instructions and decisions that make loops of it. Replaying them on the
same stages gives the same code every time; nothing is searched in a build.

Operands lie as in the kernel's default form, so its neighbours notice nothing. Kernels left to TVM's
importer can be tuned as well: theirs are the PrimFuncs of the imported operator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard, cast

from hwprune.compile.fallback import fallback_functions, fallback_of
from hwprune.compile.tvm_api import PrimFunc, Schedule, own_copy, s_tir
from hwprune.errors import CompileError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.target import Target

TUNED = "tuned"
_OWN = "main"


def is_tuned(choice: Choice | None) -> TypeGuard[Choice]:
    """Whether a kernel is built from a recorded schedule."""
    return choice is not None and choice.rule == TUNED


def unscheduled(spec: KernelSpec, target: Target) -> dict[str, PrimFunc]:
    """The PrimFuncs of a kernel before any schedule: what is tuned, by name.

    Raises
    ------
    UnsupportedOperatorError
        The kernel cannot be lowered at all.
    """
    from hwprune.compile.emit import emit
    from hwprune.compile.prepared import prepare

    if fallback_of(spec) is not None:
        return fallback_functions(spec)
    return {_OWN: prepare(emit(spec, target), target).schedule.mod["main"]}


def tuned_choice(spec: KernelSpec, traces: Mapping[str, Any]) -> Choice:
    """The choice that replays ``traces`` (JSON values as TVM writes them) by function name."""
    found = {"kernel": spec.digest(), "functions": dict(traces)}
    return Choice(TUNED, (), json.dumps(found, sort_keys=True, separators=(",", ":")))


def recorded_traces(spec: KernelSpec, choice: Choice) -> dict[str, Any]:
    """The traces inside a choice; inverse of :func:`tuned_choice`.

    Raises
    ------
    CompileError
        It is no trace, or one of another kernel.
    """
    try:
        data = json.loads(choice.trace)
        kernel, traces = str(data["kernel"]), cast("dict[str, Any]", dict(data["functions"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(spec, f"is malformed ({type(error).__name__})") from error
    if kernel != spec.digest():
        raise _unusable(spec, f"belongs to kernel {kernel}")
    return traces


def tuned_functions(spec: KernelSpec, target: Target, choice: Choice) -> dict[str, PrimFunc]:
    """PrimFuncs of a kernel with the recorded schedule of a ``tuned`` choice, by name.

    Raises
    ------
    CompileError
        The trace does not belong to this kernel, or cannot be replayed on its stages.
    """
    functions, traces = unscheduled(spec, target), recorded_traces(spec, choice)
    if functions.keys() != traces.keys():
        raise _unusable(spec, f"is for functions {sorted(traces)}, the kernel has {sorted(functions)}")
    return {name: _replayed(spec, function, traces[name]) for name, function in functions.items()}


def _replayed(spec: KernelSpec, function: PrimFunc, trace: Any) -> PrimFunc:
    if trace is None:  # left as it is
        return function
    # MetaSchedule knows the function it schedules as ``main``, and its instructions name it.
    schedule = Schedule(own_copy(function).with_attr("global_symbol", _OWN), debug_mask=0)
    try:
        s_tir.Trace.apply_json_to_schedule(trace, schedule)
    except Exception as error:  # TVM raises whatever it likes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise _unusable(spec, f"cannot be replayed: {reason[:300]}") from error
    return schedule.mod[_OWN]


def _unusable(spec: KernelSpec, what: str) -> CompileError:
    return CompileError(
        f"the tuned schedule of kernel '{spec.label()}' {what}",
        hint="delete choices.json in the table's directory and search again",
    )
