"""hwprune: prunes trained PyTorch models by measured latency and compiles them with TVM.

Names load on first use: importing this package imports neither torch nor TVM.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwprune.api import (
        Planned,
        Pruned,
        apply_plan,
        bench,
        compile,
        frontier,
        load,
        plan,
        prune,
        prune_iteratively,
        save,
        verdict,
    )
    from hwprune.dependency.register import register_rule
    from hwprune.edits import find_blocks, fold_dead, prune_optimizer, remove_blocks
    from hwprune.errors import HwpruneError
    from hwprune.fxpass import PrunePass
    from hwprune.planner.options import PlanOptions
    from hwprune.planning.asked import IterativeOptions
    from hwprune.planning.check import check_plan
    from hwprune.repair.options import RepairOptions
    from hwprune.solve.compose import compose
    from hwprune.solve.plan import Plan
    from hwprune.solve.plan_diff import diff_plans
    from hwprune.surgery.register import register_rewrite
    from hwprune.target import Target, load_target

__version__ = "0.1.0"

__all__ = [
    "HwpruneError",
    "IterativeOptions",
    "Plan",
    "PlanOptions",
    "Planned",
    "PrunePass",
    "Pruned",
    "RepairOptions",
    "Target",
    "apply_plan",
    "bench",
    "check_plan",
    "compile",
    "compose",
    "diff_plans",
    "find_blocks",
    "fold_dead",
    "frontier",
    "load",
    "load_target",
    "plan",
    "prune",
    "prune_iteratively",
    "prune_optimizer",
    "register_rewrite",
    "register_rule",
    "remove_blocks",
    "save",
    "verdict",
]

_HOME = {
    "HwpruneError": "errors",
    "IterativeOptions": "planning.asked",
    "Plan": "solve.plan",
    "PlanOptions": "planner.options",
    "PrunePass": "fxpass",
    "RepairOptions": "repair.options",
    "Target": "target",
    "check_plan": "planning.check",
    "compose": "solve.compose",
    "diff_plans": "solve.plan_diff",
    "find_blocks": "edits",
    "fold_dead": "edits",
    "load_target": "target",
    "prune_optimizer": "edits",
    "register_rewrite": "surgery.register",
    "register_rule": "dependency.register",
    "remove_blocks": "edits",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hwprune' has no attribute '{name}'")
    return getattr(import_module(f"hwprune.{_HOME.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    """Keeps ``hwprune.compile`` the function.

    Importing the subpackage of that name binds it here, over the function; ``from hwprune.compile
    import ...`` does not need that binding.
    """

    @property
    def compile(self) -> Any:
        return import_module("hwprune.api").compile

    @compile.setter
    def compile(self, subpackage: ModuleType) -> None: ...


sys.modules[__name__].__class__ = _Package
