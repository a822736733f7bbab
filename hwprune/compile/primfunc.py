"""The PrimFunc of a kernel: emit, schedule, name."""

from __future__ import annotations

from hwprune.compile.emit import emit
from hwprune.compile.schedule import schedule_kernel
from hwprune.compile.tuned import is_tuned, tuned_functions
from hwprune.compile.tvm_api import PrimFunc
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.target import Target


def kernel_symbol(spec: KernelSpec) -> str:
    """Name of a kernel's function in the library: its kind and digest."""
    return f"hw_{spec.anchor}_{spec.digest()}"


def build_primfunc(spec: KernelSpec, target: Target, choice: Choice | None = None) -> PrimFunc:
    """Scheduled PrimFunc whose parameters are the kernel's physical inputs, then its output.

    ``choice`` is one of :func:`hwprune.compile.choice.choices_for` or ``tuned``; None is the default.
    """
    if is_tuned(choice):
        (function,) = tuned_functions(spec, target, choice).values()
        return function.with_attr("global_symbol", kernel_symbol(spec))
    return schedule_kernel(emit(spec, target, choice), target).with_attr("global_symbol", kernel_symbol(spec))
