"""The pruning pass as a ``torch.fx`` pass, for pipelines built from ``PassManager``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.solve.plan import Plan
from hwprune.surgery import cut_graph, verify


class PrunePass(PassBase):
    """Cuts a graph module by a plan, or by the units to keep of each group.

    Parameters
    ----------
    keep
        A :class:`hwprune.Plan`, or group name to kept units.
    example_inputs
        Inputs of the module, for shapes and for the verification.

    Examples
    --------
    >>> manager = PassManager([PrunePass(plan, (torch.randn(1, 3, 224, 224),))])
    >>> smaller = manager(graph_module).graph_module
    """

    def __init__(self, keep: Plan | Mapping[str, Sequence[int]], example_inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.keep = keep.keep if isinstance(keep, Plan) else dict(keep)
        self.example_inputs = tuple(example_inputs)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Return a smaller, verified graph module; the given one is not changed.

        Raises
        ------
        VerificationError
            The result does not equal the masked original.
        """
        captured = capture(graph_module, self.example_inputs)
        deps = analyse(captured)
        smaller = cut_graph(captured, deps, self.keep)
        verify(captured, deps, self.keep, smaller)
        modified = any(len(units) < deps.group(name).size for name, units in self.keep.items())
        return PassResult(smaller, modified)
