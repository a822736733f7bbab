"""What layers read and write at sampled positions: rows for regressions, without whole maps in memory.

Positions are drawn from a seed, the layer's name and the number of the batch, and from nothing
else: a second network with the same layer (a pruned one, say) is sampled at the same places.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import fx

from hwprune.dependency.arguments import argument
from hwprune.dependency.groups import ChannelGroup
from hwprune.errors import CriterionError
from hwprune.importance.batches import Batch

Kind = Literal["convolution", "linear"]

_CONVOLUTIONS = {
    f"aten.conv{rank}d.{overload}": rank for rank in (1, 2, 3) for overload in ("default", "padding")
}
_LINEAR = "aten.linear.default"
#: Above so many positions, some of an example's may coincide: drawing without that costs memory.
_DISTINCT = 4096


@dataclass(frozen=True)
class Consumer:
    """A layer that reads channels through a weight: a convolution (grouped or not) or a linear layer.

    Attributes
    ----------
    node
        Name of the node that computes it.
    weight, bias
        Names of its parameters; ``bias`` is None where there is none.
    kind
        What it is.
    groups
        Of the convolution.
    kernel
        Positions of the filter: k*k.
    """

    node: str
    weight: str
    bias: str | None
    kind: Kind
    groups: int
    kernel: int


@dataclass(frozen=True)
class Rows:
    """What a layer read and wrote at ``n`` positions.

    Attributes
    ----------
    x
        ``[n, groups, C_in/groups * k*k]``, in the order of the flattened weight ``[C_out, C_in/groups,
        k, k]``; zeros where the filter reaches into the padding.
    y
        ``[n, groups, C_out/groups]``, the bias included.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Positions:
    """Draws positions of a layer's output; the same ones whenever it is asked again.

    Parameters
    ----------
    per_example
        How many positions of every example; all where there are no more.
    seed
        Another seed gives other positions.
    """

    per_example: int = 10
    seed: int = 0

    def draw(self, layer: str, batch: int, rows: int, spots: int, examples: int) -> torch.Tensor:
        """Positions ``[rows, p]``, numbers below ``spots``, of every entry of the first dimension.

        Parameters
        ----------
        layer, batch
            Name of the layer's node, and number of the batch.
        rows, spots
            Size of the output's first dimension, and positions behind each.
        examples
            Examples in the batch. Where a layer sees each as several rows (windows), they share
            the positions that an example has.
        """
        wanted = max(1, math.ceil(self.per_example * max(1, examples) / max(1, rows)))
        if wanted >= spots:
            return torch.arange(spots).expand(rows, spots)
        seed = zlib.crc32(f"{self.seed}/{layer}/{batch}".encode())
        generator = torch.Generator().manual_seed(seed)
        if spots <= _DISTINCT:
            return torch.rand(rows, spots, generator=generator).topk(wanted, dim=1).indices
        return torch.randint(spots, (rows, wanted), generator=generator)


def consumer_of(node: fx.Node) -> Consumer | None:
    """What a node is as a consumer; None where it is none, or its weight is computed on the way."""
    target = str(node.target)
    if node.op != "call_function" or (target not in _CONVOLUTIONS and target != _LINEAR):
        return None
    weight, bias = node.args[1], argument(node, 2, "bias", None)
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    if bias is not None and (not isinstance(bias, fx.Node) or bias.op != "get_attr"):
        return None
    name = None if bias is None else str(bias.target)
    if target == _LINEAR:
        return Consumer(node.name, str(weight.target), name, "linear", 1, 1)
    if len(node.meta["val"].shape) != _CONVOLUTIONS[target] + 2:  # one example without a batch dimension
        return None
    kernel = math.prod(weight.meta["val"].shape[2:])
    groups = argument(node, 6, "groups", 1)
    return Consumer(node.name, str(weight.target), name, "convolution", cast("int", groups), kernel)


def consumers_of(graph: fx.GraphModule, group: ChannelGroup | None = None) -> tuple[Consumer, ...]:
    """The consumers of a group, or all of a graph, in the order in which they are computed.

    Layers that are no convolution and no linear layer (matrix products with a weight, transposed
    convolutions) are not among them.
    """
    names = None if group is None else {m.node for m in group.members if m.role == "consumer"}
    found = (consumer_of(node) for node in graph.graph.nodes if names is None or node.name in names)
    return tuple(consumer for consumer in found if consumer is not None)


def spots_of(consumer: Consumer, output: torch.Tensor) -> int:
    """Positions of an output behind its first dimension."""
    inner = output.shape[2:] if consumer.kind == "convolution" else output.shape[1:-1]
    return math.prod(inner)


def outputs_at(consumer: Consumer, output: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Values of an output (or of another tensor of its shape) at positions ``[rows, p]``.

    Returns
    -------
    torch.Tensor
        ``[rows * p, C_out]``.
    """
    at = at.to(output.device)
    if consumer.kind == "convolution":
        channels = output.shape[1]
        picked = output.flatten(2).gather(2, at[:, None, :].expand(-1, channels, -1))
        return picked.transpose(1, 2).reshape(-1, channels)
    channels = output.shape[-1]
    if output.ndim == 1:
        return output[None]
    flat = output.reshape(output.shape[0], -1, channels)
    return flat.gather(1, at[:, :, None].expand(-1, -1, channels)).reshape(-1, channels)


def inputs_at(
    consumer: Consumer, node: fx.Node, x: torch.Tensor, at: torch.Tensor, spatial: Sequence[int]
) -> torch.Tensor:
    """What the layer reads for its output at positions ``[rows, p]``.

    ``spatial`` is the size of the output behind its channels (convolutions).

    Returns
    -------
    torch.Tensor
        ``[rows * p, groups, C_in/groups * k*k]``.
    """
    if consumer.kind == "linear":
        return outputs_at(consumer, x, at)[:, None, :]
    rank = x.ndim - 2
    sizes = [int(n) for n in cast("fx.Node", node.args[1]).meta["val"].shape[2:]]
    strides, dilations = _each(node, 3, "stride", rank), _each(node, 5, "dilation", rank)
    pads = _pads(argument(node, 4, "padding", 0), sizes, dilations, rank)
    if any(before or after for before, after in pads):
        # torch pads the last dimension first.
        x = F.pad(x, [side for pair in reversed(pads) for side in pair])
    # Flat index into the padded map, for every position and every entry of the filter.
    index = torch.zeros(*at.shape, 1, dtype=torch.long)
    places = torch.unravel_index(at, list(spatial))
    offsets = torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij")
    for dim in range(rank):
        along = places[dim][..., None] * strides[dim] + offsets[dim].flatten() * dilations[dim]
        index = index * int(x.shape[2 + dim]) + along
    index = index.flatten(1).to(x.device)
    picked = x.flatten(2).gather(2, index[:, None, :].expand(-1, x.shape[1], -1))
    picked = picked.unflatten(2, (at.shape[1], -1)).transpose(1, 2)
    return picked.reshape(picked.shape[0] * picked.shape[1], consumer.groups, -1)


def rows_of(consumer: Consumer, node: fx.Node, x: torch.Tensor, y: torch.Tensor, at: torch.Tensor) -> Rows:
    """Rows of a layer from what it read and wrote as a whole.

    Raises
    ------
    CriterionError
        The values are not finite.
    """
    rows = Rows(
        inputs_at(consumer, node, x, at, y.shape[2:]),
        outputs_at(consumer, y, at).unflatten(1, (consumer.groups, -1)),
    )
    if not bool(torch.isfinite(rows.x).all() and torch.isfinite(rows.y).all()):
        raise CriterionError(
            f"what {consumer.node} ({consumer.weight}) reads or writes is not finite",
            hint="look for NaN or infinite values in the data and the weights",
        )
    return rows


Visit = Callable[[Consumer, Rows], None]


def stream_rows(
    graph: fx.GraphModule,
    consumers: Iterable[Consumer],
    data: Iterable[Batch],
    positions: Positions,
    visit: Visit,
) -> int:
    """Run a graph on data and hand over the rows of some of its layers, batch by batch.

    Holds the activations of one batch at a time. Put the graph into evaluation mode first
    (:func:`hwprune.importance.modes.in_mode`); no gradients are taken.

    Parameters
    ----------
    graph
        A captured graph.
    consumers
        Layers of it, from :func:`consumers_of`.
    data
        Batches, see :class:`hwprune.importance.data.CriterionData`.
    positions
        Where layers are looked at.
    visit
        Called with every layer and its rows of every batch; a layer's rows come in the order of
        the data.

    Returns
    -------
    int
        Examples seen.

    Raises
    ------
    CriterionError
        Values are not finite, or the graph does not run on a batch.
    """
    wanted = {consumer.node: consumer for consumer in consumers}
    seen = 0
    for number, batch in enumerate(data):

        def look(
            node: fx.Node, args: Sequence[Any], value: Any, number: int = number, size: int = batch.size
        ) -> None:
            consumer = wanted.get(node.name)
            if consumer is not None:
                spots = spots_of(consumer, value)
                rows = value.shape[0] if value.ndim > 1 else 1
                at = positions.draw(consumer.node, number, rows, spots, size)
                visit(consumer, rows_of(consumer, node, args[0], value, at))

        with torch.no_grad():
            Watched(graph, look).run(*bind(graph, batch), enable_io_processing=False)
        seen += max(1, batch.size)
    return seen


def bind(graph: fx.GraphModule, batch: Batch) -> list[Any]:
    """A batch as the values of the graph's placeholders, in their order.

    Raises
    ------
    CriterionError
        The graph takes other arguments.
    """
    codegen = graph.graph._codegen  # pyright: ignore[reportPrivateUsage] - the only place that knows names
    info = getattr(codegen, "pytree_info", None)
    names = [] if info is None else list(info.orig_args)[len(batch.inputs) :]
    named = [batch.named[name] for name in names if name in batch.named]
    values = list(graph.graph.process_inputs(*batch.inputs, *named))
    wanted = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    if len(values) != len(wanted) or len(named) != len(batch.named):
        raise CriterionError(
            f"the model takes {', '.join(wanted)}, and a batch has {len(batch.inputs)} inputs"
            + (f" and {', '.join(batch.named)}" if batch.named else ""),
            hint="the data must have the form of the example inputs",
        )
    return values


Look = Callable[[fx.Node, Sequence[Any], Any], None]


class Watched(fx.Interpreter):
    """Runs a graph and shows every call's arguments and value."""

    def __init__(self, graph: fx.GraphModule, look: Look) -> None:
        super().__init__(graph)
        self._look = look

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function":
            self._look(n, self.fetch_args_kwargs_from_env(n)[0], value)
        return value


def _each(node: fx.Node, index: int, name: str, rank: int) -> list[int]:
    value = argument(node, index, name, 1)
    return _spread(value, rank)


def _spread(value: object, rank: int) -> list[int]:
    items = [int(v) for v in cast("Iterable[int]", value)] if isinstance(value, list | tuple) else None
    if items is None:
        return [int(cast("int", value))] * rank
    return list(itertools.islice(itertools.cycle(items), rank))


def _pads(
    padding: object, sizes: Sequence[int], dilations: Sequence[int], rank: int
) -> list[tuple[int, int]]:
    """Zeros before and after every dimension."""
    if padding == "valid":
        return [(0, 0)] * rank
    if padding == "same":
        totals = [dilation * (size - 1) for size, dilation in zip(sizes, dilations, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(n, n) for n in _spread(padding, rank)]
