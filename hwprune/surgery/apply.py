"""``cut_graph``: the graph form of the pruned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hwprune.capture.captured import Captured
from hwprune.capture.trainable import TrainableGraph
from hwprune.dependency.groups import Dependencies
from hwprune.errors import SurgeryError
from hwprune.extent import Extent
from hwprune.surgery.constants import rewrite_constants
from hwprune.surgery.constants_layers import normalized_shape
from hwprune.surgery.selection import cut_tensor, select, widths_of

# Importing one rewriting of each further file fills the table with all of them.
_REGISTERED = (normalized_shape,)


def cut_graph(captured: Captured, deps: Dependencies, keep: Mapping[str, Sequence[int]]) -> TrainableGraph:
    """Build the graph with the removed units gone.

    Parameters are sliced copies without gradients; group counts and sizes in the graph are
    rewritten; every node's ``meta["val"]`` has its new shape, so the result can be analysed again.

    Parameters
    ----------
    captured
        The graph that ``deps`` was made from; it is not changed.
    deps
        Groups and extents.
    keep
        Group to its kept units, sorted; groups that are not named stay whole.

    Returns
    -------
    TrainableGraph
        In eval mode.

    Raises
    ------
    PlanError
        ``keep`` does not fit the groups.
    SurgeryError
        The shapes of the new graph are not those that the analysis foretold.
    """
    source = captured.graph
    tensors = graph_tensors(source)
    cuts = select(deps, keep, {name: tuple(value.shape) for name, value in tensors.items()})
    graph, _ = graph_at(captured, deps, widths_of(deps, keep))
    root = other_attributes(source) | {name: _cut(value, cuts.get(name)) for name, value in tensors.items()}
    result = TrainableGraph(root, graph, class_name=type(source).__name__)
    result.eval()
    _refresh(result)
    return result


def graph_at(
    captured: Captured, deps: Dependencies, widths: Mapping[str, int]
) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """A copy of the graph whose constants follow the widths, and its nodes by their names in the original.

    ``meta["hwprune_sizes"]`` of a node says which shape it will have; ``meta["val"]`` is still the
    original's.
    """
    source = captured.graph.graph
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in source.nodes:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
        if node.name in deps.extents:
            copies[node].meta["hwprune_sizes"] = sizes_at(deps.extents[node.name], widths)
        if node.name in deps.pieces:
            copies[node].meta["hwprune_pieces"] = sizes_at(deps.pieces[node.name], widths)
    graph.set_codegen(source._codegen)  # pyright: ignore[reportPrivateUsage] - keeps input and output trees
    for node in graph.nodes:
        rewrite_constants(node)
    return graph, {node.name: copy for node, copy in copies.items()}


def graph_tensors(graph: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Parameters and buffers that a graph reads, by ``get_attr`` target."""
    found: dict[str, torch.Tensor] = {}
    for node in graph.graph.nodes:
        value = _attribute(graph, str(node.target)) if node.op == "get_attr" else None
        if isinstance(value, torch.Tensor):
            found[str(node.target)] = value
    return found


def other_attributes(graph: fx.GraphModule) -> dict[str, object]:
    """Subgraphs and other things that are not tensors, by target."""
    targets = [str(n.target) for n in graph.graph.nodes if n.op in ("get_attr", "call_module")]
    values = {target: _attribute(graph, target) for target in targets}
    return {target: value for target, value in values.items() if not isinstance(value, torch.Tensor)}


def sizes_at(extents: Sequence[Extent], widths: Mapping[str, int]) -> tuple[int, ...]:
    """A shape at given group widths."""
    return tuple(extent.at(widths) for extent in extents)


def _attribute(module: nn.Module, target: str) -> object:
    value: object = module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _cut(value: torch.Tensor, dims: Mapping[int, torch.Tensor] | None) -> object:
    out = cut_tensor(value, dims or {})
    return nn.Parameter(out, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else out


class _Shapes(fx.Interpreter):
    """Runs a graph on fake tensors and notes each node's value."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.mode = mode

    def run_node(self, n: fx.Node) -> object:
        value: object = super().run_node(n)
        if n.op == "get_attr" and isinstance(value, torch.Tensor):
            value = self.mode.from_tensor(value, static_shapes=True)
        if n.op != "output":
            n.meta["val"] = value
        return value


def _refresh(module: TrainableGraph) -> None:
    """New fake tensors on every node; they must have the sizes that the extents say."""
    mode = FakeTensorMode()
    inputs = [n.meta["val"] for n in module.graph.nodes if n.op == "placeholder"]
    with mode:
        fakes = [torch.empty(tuple(v.shape), dtype=v.dtype, device=v.device) for v in inputs]
        try:
            _Shapes(module, mode).run(*fakes, enable_io_processing=False)
        except Exception as error:  # torch raises many kinds for shapes that do not fit
            raise SurgeryError(
                f"the cut graph does not run: {str(error).strip().splitlines()[0]}",
                hint="exclude the layer's group and report this network",
            ) from error
    for node in module.graph.nodes:
        node.meta.pop("tensor_meta", None)
        node.meta.pop("hwprune_pieces", None)
        expected = node.meta.pop("hwprune_sizes", None)
        value = node.meta.get("val")
        if expected is not None and isinstance(value, torch.Tensor) and tuple(value.shape) != expected:
            raise SurgeryError(
                f"after the cut, node {node.name!r} ({node.target}) has shape {tuple(value.shape)}, "
                f"not {expected}",
                hint="exclude the layer's group and report this network",
            )
