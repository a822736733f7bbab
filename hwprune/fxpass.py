"""The pruning pass as a ``torch.fx`` pass, for pipelines built from ``PassManager``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.dependency.blocks import find_blocks
from hwprune.solve.plan import Plan
from hwprune.surgery import verify
from hwprune.surgery.blocks import choose_blocks, zeroed_original
from hwprune.surgery.shortened import cut_to_graph


class PrunePass(PassBase):
    """Cuts a graph module by a plan, or by the units to keep of each group.

    Parameters
    ----------
    keep
        A :class:`hwprune.Plan` (its blocks go, too), or group name to kept units.
    example_inputs
        Inputs of the module, for shapes and for the verification.

    Examples
    --------
    >>> manager = PassManager([PrunePass(plan, (torch.randn(1, 3, 224, 224),))])
    >>> smaller = manager(graph_module).graph_module
    """

    def __init__(self, keep: Plan | Mapping[str, Sequence[int]], example_inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.plan = keep if isinstance(keep, Plan) else None
        self.keep = keep.remaining if isinstance(keep, Plan) else dict(keep)
        self.example_inputs = tuple(example_inputs)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Return a smaller, verified graph module; the given one is not changed.

        Raises
        ------
        PlanError
            The plan has groups or blocks that the module does not have.
        VerificationError
            The result does not equal the masked original.
        """
        captured = capture(graph_module, self.example_inputs)
        deps, removed = analyse(captured), ()
        if self.plan is not None:
            plan = self.plan
            deps = analyse(captured, inside_heads=plan.inside_heads, prune_outputs=plan.prune_outputs)
            removed = choose_blocks(find_blocks(captured, deps) if plan.removed else (), plan.removed)
        smaller = cut_to_graph(captured, deps, self.keep, removed)
        silent = replace(captured, graph=zeroed_original(captured, removed)) if removed else captured
        verify(silent, deps, self.keep, smaller)
        cut = any(len(units) < deps.group(name).size for name, units in self.keep.items())
        return PassResult(smaller, cut or bool(removed))
