"""The graph of one architecture, ready to be run on whatever slices of the weights it is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from hwprune.capture.captured import Captured
from hwprune.capture.trainable import TrainableGraph
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies
from hwprune.surgery.apply import graph_at, other_attributes
from hwprune.surgery.blocks import bypass_in

#: ``train``: BatchNorm on the batch, dropout on. ``probe``: BatchNorm on the batch, all else as in
#: evaluation, so that two architectures differ by nothing but their shape. ``eval``: evaluation.
Mode = Literal["train", "probe", "eval"]


def architecture_graph(
    captured: Captured,
    deps: Dependencies,
    blocks: Sequence[Block],
    widths: Mapping[str, int],
    removed: Collection[str],
    tensors: Mapping[str, Tensor],
    mode: Mode,
) -> TrainableGraph:
    """The graph at the given widths, with shortcuts in the place of removed blocks.

    Constants follow the widths as in :func:`hwprune.surgery.apply.cut_graph`; shapes in the nodes'
    ``meta`` stay those of the original, because a search needs hundreds of these graphs.

    Parameters
    ----------
    widths
        Units of every group; those of groups inside removed blocks do not matter.
    tensors
        Parameters and buffers by name, of any shape; the graph refers to them.
    """
    source = captured.graph
    graph, nodes = graph_at(captured, deps, widths)
    bypass_in(graph, nodes, [b for b in blocks if b.name in removed])
    root: dict[str, object] = {**other_attributes(source), **tensors}
    result = TrainableGraph(root, graph, class_name=type(source).__name__)
    result.train(mode == "train")
    if mode == "probe":
        _normalise_by_batch(result)
    return result


def _normalise_by_batch(module: TrainableGraph) -> None:
    for node in module.graph.nodes:
        if str(node.target) == "aten.batch_norm.default":
            node.update_arg(5, True)
    module.recompile()


def resize(value: Any, size: tuple[int, int] | None) -> Any:
    """Images brought to another height and width (bilinear); anything else as it is."""
    if not isinstance(value, Tensor) or value.dim() != 4 or size is None or tuple(value.shape[-2:]) == size:
        return value
    return F.interpolate(value, size=size, mode="bilinear", align_corners=False, antialias=True)
