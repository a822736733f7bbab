"""The only door to TVM: everything the code generator uses, under the names of TVM 0.27."""

from __future__ import annotations

import tvm
from tvm import ir, relax, s_tir, te, tirx
from tvm.runtime import Executable
from tvm.s_tir.schedule import SBlockRV
from tvm.target import Target as TvmTarget

Expr = tirx.Expr if hasattr(tirx, "Expr") else object
Tensor = te.Tensor
Schedule = s_tir.Schedule
PrimFunc = tirx.PrimFunc
IRModule = tvm.IRModule
transform = tvm.transform

__all__ = [
    "Executable",
    "Expr",
    "IRModule",
    "PrimFunc",
    "SBlockRV",
    "Schedule",
    "Tensor",
    "TvmTarget",
    "ir",
    "relax",
    "s_tir",
    "te",
    "tirx",
    "transform",
    "tvm",
]
