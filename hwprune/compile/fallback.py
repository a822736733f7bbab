"""Operators that have no kernel of ours: TVM's own importer and lowering, for one operator alone.

They are slow (nothing is scheduled) and say so in their label, but they are right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from hwprune.compile.shapes import integers
from hwprune.compile.tvm_api import IRModule, PrimFunc, import_torch, relax
from hwprune.errors import UnsupportedOperatorError
from hwprune.latency.kernel import KernelOp, KernelSpec


def fallback_of(spec: KernelSpec) -> KernelOp | None:
    """The fallback operator of a kernel, None for kernels of our own."""
    return spec.ops[0] if spec.ops[0].kind == "fallback" else None


@lru_cache(maxsize=64)
def fallback_module(spec: KernelSpec) -> IRModule:
    """The operator lowered: a Relax ``main`` and the PrimFuncs that it calls.

    Raises
    ------
    UnsupportedOperatorError
        TVM does not know the operator either, or the arguments do not give the stated shape.
    """
    op = spec.ops[0]
    target = str(op.attribute("target"))
    try:
        module = relax.transform.LegalizeOps()(import_torch(_exported(spec, op)))
    except UnsupportedOperatorError:
        raise
    except Exception as error:  # the importer raises whatever it likes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UnsupportedOperatorError(
            f"operator {target} has no kernel, and TVM cannot import it: {reason[:300]}"
        ) from error
    _check(module, target)
    return module


def fallback_functions(spec: KernelSpec) -> dict[str, PrimFunc]:
    """The PrimFuncs of a lowered operator as TVM makes them, by their names in its module."""
    module = fallback_module(spec)
    names = sorted((g.name_hint, g) for g in module.get_global_vars() if g.name_hint != "main")
    return {name: module[g] for name, g in names}


class Inlined:
    """A lowered operator inside a module that is being built; one per kernel, called anywhere.

    ``functions`` are :func:`fallback_functions`, scheduled or not.
    """

    def __init__(
        self, builder: Any, spec: KernelSpec, symbol: str, functions: Mapping[str, PrimFunc]
    ) -> None:
        self.builder = builder
        self.main = fallback_module(spec)["main"]
        self.functions = {
            name: builder.add_func(
                function.with_attr("global_symbol", f"{symbol}_{name}"), f"{symbol}_{name}"
            )
            for name, function in functions.items()
        }

    def call(self, arguments: Sequence[Any]) -> Any:
        """Emit the operator's bindings on other arguments; its result."""
        known = dict(zip(self.main.params, arguments, strict=True))

        def mapped(value: Any) -> Any:
            if isinstance(value, relax.Var):
                return known[value]
            if isinstance(value, relax.Tuple):
                return relax.Tuple([mapped(field) for field in value.fields])
            if isinstance(value, relax.TupleGetItem):
                return relax.TupleGetItem(mapped(value.tuple_value), value.index)
            if isinstance(value, relax.Call):
                function = self.functions[value.args[0].name_hint]
                given = [function, *(mapped(argument) for argument in value.args[1:])]
                return relax.Call(value.op, given, value.attrs, value.ty_args)
            return value

        for block in self.main.body.blocks:
            for binding in block.bindings:
                known[binding.var] = self.builder.emit(mapped(binding.value))
        return mapped(self.main.body.body)


def _exported(spec: KernelSpec, op: KernelOp) -> Any:
    """The operator as an exported program of its tensors."""
    import torch

    _, name, overload = str(op.attribute("target")).split(".")
    call = getattr(getattr(torch.ops.aten, name), overload)
    positional, named = json.loads(str(op.attribute("arguments")))
    shape, item = list(integers(op, "shape")), integers(op, "item")[0]

    class Alone(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            def value(given: Any) -> Any:
                if isinstance(given, dict):
                    return tensors[given["tensor"]] if "tensor" in given else shape
                return [value(v) for v in given] if isinstance(given, list) else given

            out = call(*value(positional), **{k: value(v) for k, v in named.items()})
            return out if item < 0 else out[item]

    examples = tuple(torch.zeros(spec.inputs[a].shape) for a in op.args)
    with torch.no_grad():
        found = tuple(Alone()(*examples).shape)
    if found != tuple(shape):
        raise UnsupportedOperatorError(
            f"operator {op.attribute('target')} gives {found} at these widths, not {tuple(shape)}"
        )
    return torch.export.export(Alone(), examples, strict=False)


def _check(module: IRModule, target: str) -> None:
    """Every call must have become a call of a PrimFunc."""
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call) and value.op.name != "relax.call_tir":
                raise UnsupportedOperatorError(
                    f"operator {target} has no kernel, and TVM has no lowering of {value.op.name} for CPUs"
                )
