"""Channel samplers: layers that read only some channels of a stream that stays as wide as it is.

The channels of a residual stream are read by every block, so that they can only go everywhere at
once. The first layer of a branch can be made to read fewer of them, though: the channels are picked in
front of it, and its weight has no other inputs (He, Zhang and Sun, ICCV 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx, nn

from hwprune.capture.copies import quiet_copy
from hwprune.errors import SurgeryError, VerificationError
from hwprune.surgery.compare import max_difference
from hwprune.surgery.record import ranges_of

#: Layers by path, with the input channels that each still reads, rising.
Samplers = Mapping[str, Sequence[int]]

_LAYERS = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


class _Sampling:
    """Mixed into the class of a layer: picks channels before it reads them.

    Channels are taken in runs (slices that are put together): compilers know these.
    """

    hwprune_ranges: tuple[tuple[int, int], ...]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        linear = isinstance(self, nn.Linear)
        pieces = [x[..., start:stop] if linear else x[:, start:stop] for start, stop in self.hwprune_ranges]
        picked = pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1 if linear else 1)
        return super().forward(picked)  # pyright: ignore[reportAttributeAccessIssue] - the mixed-in class


def branch_entries(graph: fx.GraphModule) -> tuple[str, ...]:
    """Layers that share what they read with another reader: where samplers make sense.

    Paths of convolutions without groups and of linear layers; in a residual network the first
    layer of every branch, and projections.
    """
    found: list[str] = []
    for node in graph.graph.nodes:
        if not str(node.target).startswith(("aten.conv", "aten.linear")) or len(node.args) < 2:
            continue
        source, weight = node.args[:2]
        single = len(node.args) <= 6 or node.args[6] == 1
        if isinstance(source, fx.Node) and len(source.users) > 1 and isinstance(weight, fx.Node) and single:
            found.append(str(weight.target).removesuffix(".weight"))
    return tuple(dict.fromkeys(found))


def chosen_channels(
    model: nn.Module, wanted: Mapping[str, Sequence[int] | int]
) -> dict[str, tuple[int, ...]]:
    """Input channels per layer: those that are given, or as many of the largest weights (L2) as asked.

    Raises
    ------
    SurgeryError
        There is no such layer, it is grouped or of another kind, or it has no such channels.
    """
    chosen: dict[str, tuple[int, ...]] = {}
    for path, asked in wanted.items():
        try:
            layer = model.get_submodule(path)
            weight = layer.get_parameter("weight")
        except AttributeError as error:
            raise SurgeryError(f"there is no layer {path!r}", hint="give the path of a layer") from error
        # In a graph the layers are gone, and their parameters are left under their names.
        known = isinstance(model, fx.GraphModule) or isinstance(layer, _LAYERS)
        if not known or weight.ndim < 2 or getattr(layer, "groups", 1) != 1:
            raise SurgeryError(
                f"{path!r} is a {type(layer).__name__}, in front of which no channels can be picked",
                hint="name a convolution without groups, or a linear layer",
            )
        if isinstance(layer, _Sampling):
            raise SurgeryError(f"{path!r} has a sampler already", hint="sample a model once")
        size = int(weight.shape[1])
        if isinstance(asked, int):
            norms = weight.detach().double().transpose(0, 1).flatten(1).norm(dim=1)
            kept = tuple(sorted(norms.topk(min(max(asked, 0), size)).indices.tolist()))
        else:
            kept = tuple(asked)
        if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
            raise SurgeryError(
                f"the channels for {path!r} are not rising numbers from 0 to {size - 1}",
                hint="give the input channels that the layer still reads, one at least",
            )
        chosen[path] = kept
    return chosen


def sampled(model: nn.Module, samplers: Samplers) -> nn.Module:
    """A copy of a model (module or graph) in which some layers read only these of their inputs.

    Raises
    ------
    SurgeryError
        See :func:`chosen_channels` and :func:`sample_graph`.
    """
    samplers = chosen_channels(model, samplers)
    twin = quiet_copy(model)
    if isinstance(twin, fx.GraphModule):
        sample_graph(twin, samplers)
        return twin
    for path, kept in samplers.items():
        layer = twin.get_submodule(path)
        assert isinstance(layer, _LAYERS)
        layer.weight = _picked(layer.weight, kept)
        if isinstance(layer, nn.Linear):
            layer.in_features = len(kept)
        else:
            layer.in_channels = len(kept)
        _mix_in(layer, kept)
    return twin


def _mix_in(layer: nn.Module, kept: Sequence[int]) -> None:
    cls = type(layer)
    layer.__class__ = type(cls.__name__, (_Sampling, cls), {"__module__": cls.__module__})
    cast("_Sampling", layer).hwprune_ranges = tuple(ranges_of(kept))


def _picked(weight: torch.Tensor, kept: Sequence[int]) -> nn.Parameter:
    return nn.Parameter(weight.detach()[:, list(kept)].clone(), requires_grad=weight.requires_grad)


def sample(
    model: nn.Module,
    channels: Mapping[str, Sequence[int] | int],
    inputs: Sequence[Any],
    tolerance: float = 1e-4,
) -> tuple[nn.Module, dict[str, tuple[int, ...]], float]:
    """:func:`sampled`, verified against the model that is deaf to the other channels.

    Returns
    -------
    model, samplers, error
        The result, the channels that each layer still reads, and the largest difference relative to
        the output's scale.

    Raises
    ------
    SurgeryError
        See :func:`chosen_channels`.
    VerificationError
        The result is not the model with those weights zeroed.
    """
    samplers = chosen_channels(model, channels)
    smaller = sampled(model, samplers)
    error = max_difference(deaf(model, samplers), smaller, inputs)
    if not error <= tolerance:
        raise VerificationError(
            f"with fewer channels picked, the outputs differ by {error:.2e} of their scale",
            hint="leave out layers that are used in other ways than by being called",
        )
    return smaller, samplers, error


def deaf(model: nn.Module, samplers: Samplers) -> nn.Module:
    """A copy in which these layers do not hear the other channels: what the sampled model must equal."""
    twin = quiet_copy(model)
    with torch.no_grad():
        for path, kept in chosen_channels(model, samplers).items():
            weight = twin.get_submodule(path).get_parameter("weight")
            weight[:, [channel for channel in range(weight.shape[1]) if channel not in set(kept)]] = 0
    return twin


def sample_graph(graph: fx.GraphModule, samplers: Samplers) -> None:
    """The same in a graph, in place; its layers keep the names of their nodes.

    Raises
    ------
    SurgeryError
        A layer's weight is not in the graph, or not used once.
    """
    for path, kept in samplers.items():
        name = f"{path}.weight"
        weights = [n for n in graph.graph.nodes if n.op == "get_attr" and n.target == name]
        readers = [user for node in weights for user in node.users]
        if len(readers) != 1 or not isinstance(readers[0].args[0], fx.Node):
            raise SurgeryError(f"{name} is not read once in the graph", hint="leave its sampler out")
        _insert(graph, readers[0], kept)
        owner, _, attribute = name.rpartition(".")
        module = graph.get_submodule(owner)
        setattr(module, attribute, _picked(getattr(module, attribute), kept))
        weights[0].meta["val"] = weights[0].meta["val"].narrow(1, 0, len(kept))
    graph.graph.lint()
    graph.recompile()


def _insert(graph: fx.GraphModule, reader: fx.Node, kept: Sequence[int]) -> None:
    source = cast("fx.Node", reader.args[0])
    value = source.meta["val"]
    dim = value.ndim - 1 if str(reader.target) == "aten.linear.default" else 1
    aten = torch.ops.aten
    pieces: list[fx.Node] = []
    with graph.graph.inserting_before(reader):
        for start, stop in ranges_of(kept):
            piece = graph.graph.call_function(aten.slice.Tensor, (source, dim, start, stop))
            piece.meta["val"] = value.narrow(dim, start, stop - start)
            pieces.append(piece)
        picked = pieces[0]
        if len(pieces) > 1:
            values: list[Any] = [piece.meta["val"] for piece in pieces]
            picked = graph.graph.call_function(aten.cat.default, (pieces, dim))
            picked.meta["val"] = torch.cat(values, dim)
    reader.update_arg(0, picked)
