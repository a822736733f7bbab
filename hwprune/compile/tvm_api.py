"""The only door to TVM: everything the code generator uses, under the names of TVM 0.27.

TVM's own annotations do not describe what its objects can do (operators, indexing, attributes
come from its FFI), so its modules are handed on untyped.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import tvm
import tvm.relax
import tvm.s_tir
import tvm.te
import tvm.tirx

te: Any = tvm.te
tirx: Any = tvm.tirx
relax: Any = tvm.relax
s_tir: Any = tvm.s_tir
transform: Any = tvm.transform
Schedule: Any = tvm.s_tir.Schedule
TvmTarget: Any = tvm.target.Target
version: str = tvm.__version__


def import_torch(exported: Any) -> Any:
    """Relax module of a ``torch.export`` program; its ``main`` returns one tensor."""
    from tvm.relax.frontend.torch import from_exported_program

    return from_exported_program(exported, unwrap_unit_return_tuple=True)


#: Types of TVM objects in signatures.
Tensor = Any
PrimFunc = Any
IRModule = Any
SBlockRV = Any


def torch_importer(exported: Any) -> tuple[IRModule, list[Any]]:
    """TVM's own importer: a ``torch.export.ExportedProgram`` as Relax, and its weights as arrays.

    ``main`` takes the inputs, then the weights. The importer brings torch along, so it is only
    loaded here.
    """
    from tvm.relax.frontend import detach_params
    from tvm.relax.frontend.torch import from_exported_program

    module, weights = detach_params(from_exported_program(exported, keep_params_as_input=True))
    return module, [value.numpy() for value in weights.get("main", [])]


def meta_schedule() -> Any:
    """TVM's search for schedules; only tuning loads it."""
    # It imports the intrinsics of every accelerator that TVM knows, which takes ten seconds; nothing
    # that schedules for CPUs here uses them.
    name = "tvm.s_tir.tensor_intrin"
    sys.modules.setdefault(name, ModuleType(name))
    from tvm.s_tir import meta_schedule as module

    return module


def own_copy(function: PrimFunc) -> PrimFunc:
    """A PrimFunc that shares nothing with the given one: scheduling changes statements in place."""
    return tvm.ir.load_json(tvm.ir.save_json(function))


def plain_json(value: Any) -> Any:
    """A JSON value of TVM's (numbers may be its own objects) in Python's types."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tvm.tirx.IntImm):
        return int(value.value)
    if isinstance(value, tvm.tirx.FloatImm):
        return float(value.value)
    if hasattr(value, "items"):
        return {str(key): plain_json(item) for key, item in value.items()}
    return [plain_json(item) for item in value]
