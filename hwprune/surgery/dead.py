"""Dead channels: units that are constant go, and what they did to their readers stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from hwprune.capture.captured import Captured
from hwprune.capture.export import capture
from hwprune.capture.parametrized import plain_copy
from hwprune.dependency.analyse import analyse
from hwprune.dependency.groups import ChannelGroup, Dependencies, Member, Refusal
from hwprune.errors import VerificationError
from hwprune.surgery.compare import max_difference
from hwprune.surgery.constancy import Constancy, Known, input_channels, is_padded
from hwprune.surgery.prune import prune_model
from hwprune.surgery.selection import positions, removed_units

_LAYERS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.linear.default")
_BIASED = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class DeadUnits:
    """Units of groups that can go, and what their readers must add instead.

    ``units`` is group to unit numbers; ``shifts`` is weight to one number per output channel
    (float64); ``ledger`` names constant units that have to stay.
    """

    units: Mapping[str, tuple[int, ...]]
    shifts: Mapping[str, torch.Tensor]
    ledger: tuple[Refusal, ...]


class _Stays(Exception):
    """A unit that is constant, but whose effect cannot be folded."""


@dataclass(frozen=True)
class _Reader:
    """A layer, prepared: the input channel behind every weight, and weights summed over the kernel."""

    node: fx.Node
    dim: int
    channels: torch.Tensor
    sums: torch.Tensor

    @staticmethod
    def of(node: fx.Node, weight: torch.Tensor) -> _Reader:
        rank = len(node.meta["val"].shape)
        dim = rank - 1 if weight.dim() == 2 else rank - weight.dim() + 1
        sums = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        return _Reader(node, dim, input_channels(node, weight), sums)

    def effect(self, known: Known, at: list[int]) -> torch.Tensor | None:
        """What constants at these positions of the weight's input add to the output."""
        channels = self.channels[:, at]
        if known.dim != self.dim or not bool(known.mask[channels].all()):
            return None
        values = known.values[channels]
        if is_padded(self.node) and bool(values.any()):
            raise _Stays(
                f"not zero, so its effect is not uniform behind the zero padding of {self.node.name!r}"
            )
        return (self.sums[:, at] * values).sum(1)


@dataclass
class _Search:
    captured: Captured
    constancy: Constancy
    nodes: dict[str, fx.Node] = field(default_factory=dict[str, fx.Node])
    readers: dict[fx.Node, _Reader] = field(default_factory=dict[fx.Node, "_Reader"])

    def __post_init__(self) -> None:
        self.nodes = {str(n.target): n for n in self.captured.graph.graph.nodes if n.op == "get_attr"}

    def effects(self, group: ChannelGroup, unit: int) -> dict[str, torch.Tensor] | None:
        """What a unit adds to the outputs of its readers, None if it varies."""
        found: dict[str, torch.Tensor] = {}
        stays: _Stays | None = None
        for member in group.members:
            if member.role == "consumer":
                try:
                    effect = self._effect(member, unit)
                except _Stays as reason:
                    stays = stays or reason
                    continue
                if effect is None:
                    return None
                found[member.param] = effect
        if stays is not None:
            raise stays
        return found or None

    def _effect(self, member: Member, unit: int) -> torch.Tensor | None:
        weight_node = self.nodes[member.param]
        effects: list[torch.Tensor] = []
        for user in weight_node.users:
            known = self.constancy.of(user.args[0])
            if known is None:
                return None
            if str(user.target) not in _LAYERS or user.args[1] is not weight_node or member.dim != 1:
                raise _Stays(f"{member.param} is read by {user.target}, into which no constant is folded")
            if user not in self.readers:
                weight = self.constancy.tensor(weight_node)
                assert weight is not None
                self.readers[user] = _Reader.of(user, weight)
            effect = self.readers[user].effect(known, positions(member.runs, [unit]))
            if effect is None:
                return None
            effects.append(effect)
        if any(not torch.equal(effect, effects[0]) for effect in effects[1:]):
            raise _Stays(f"{member.param} is used several times, and the constants differ")
        if not effects:
            return None
        if bool(effects[0].any()):
            self.sink(member.param)
        return effects[0]

    def silent(self, group: ChannelGroup) -> dict[int, str]:
        """Units with a BatchNorm scale of zero somewhere, and its name."""
        found: dict[int, str] = {}
        for member in group.members:
            node = self.nodes[member.param]
            scales = (str(u.target) == "aten.batch_norm.default" and u.args[1] is node for u in node.users)
            value = self.constancy.tensor(node) if any(scales) else None
            if value is not None and bool((value == 0).any()):
                for unit in range(group.size):
                    if any(value[at] == 0 for at in positions(member.runs, [unit])):
                        found.setdefault(unit, member.param)
        return found

    def sink(self, param: str) -> tuple[str, str]:
        """Where a shift of a layer's output goes: ``bias``, ``mean`` (subtracted), ``new``; its name."""
        weight = self.nodes[param]
        users = list(weight.users)
        bias = users[0].args[2] if len(users[0].args) > 2 else None
        if isinstance(bias, fx.Node):
            shared = bias.op != "get_attr" or set(bias.users) != set(users)
            if shared or not _is_trained(self.captured.model, str(bias.target)):
                raise _Stays(f"the bias of {param} is computed or used elsewhere")
            return "bias", str(bias.target)
        readers = list(users[0].users)
        if len(users) == len(readers) == 1 and str(readers[0].target) == "aten.batch_norm.default":
            mean = readers[0].args[3]
            if isinstance(mean, fx.Node) and mean.op == "get_attr" and len(mean.users) == 1:
                return "mean", str(mean.target)
        path, _, name = param.rpartition(".")
        if name == "weight" and isinstance(self.captured.model.get_submodule(path), _BIASED):
            return "new", path
        raise _Stays(f"the layer of {param} has no bias")


def find_dead(captured: Captured, deps: Dependencies) -> DeadUnits:
    """Units that are constant wherever they are read, so that they can be folded into biases.

    A constant is folded into a convolution only where its effect is the same at every position:
    without padding, or if it is zero. One unit of every group stays.

    Parameters
    ----------
    captured, deps
        The model in eval mode and its groups.
    """
    search = _Search(captured, Constancy(captured))
    units: dict[str, tuple[int, ...]] = {}
    shifts: dict[str, torch.Tensor] = {}
    refused: dict[tuple[str, str], int] = {}
    for group in deps.groups:
        if group.readings:  # attention scores or statistics read it, too
            continue
        gone: list[int] = []
        silent = search.silent(group)
        for unit in range(group.size):
            if len(gone) == group.size - 1:
                break
            try:
                effects = search.effects(group, unit)
            except _Stays as reason:
                key = group.name, f"constant, but {reason}"
                refused[key] = refused.get(key, 0) + group.channels_per_unit
                continue
            if effects is None and unit in silent:
                why = f"the scale {silent[unit]} is zero, but where the channel is read it varies: it is "
                key = group.name, why + "summed with others, or blurred by zero padding, on the way"
                refused[key] = refused.get(key, 0) + group.channels_per_unit
            if effects is not None:
                gone.append(unit)
                for param, effect in effects.items():
                    shifts[param] = shifts[param] + effect if param in shifts else effect
        if gone:
            units[group.name] = tuple(gone)
    ledger = tuple(Refusal(name, count, reason) for (name, reason), count in refused.items())
    return DeadUnits(units, shifts, ledger)


def fold_dead(
    captured: Captured, deps: Dependencies, dead: DeadUnits, *, tolerance: float = 1e-4
) -> tuple[nn.Module, str | None, float]:
    """Cut dead units, add their effects to biases, and verify the result against the *original*.

    Returns
    -------
    model, reason, error
        As :func:`hwprune.surgery.prune_model` returns them; the error is the difference from the
        original, relative to its output's scale.

    Raises
    ------
    VerificationError
        The result is not the original.
    """
    search = _Search(captured, Constancy(captured))
    shifted = plain_copy(captured.model)
    with torch.no_grad():
        for param, shift in dead.shifts.items():
            if bool(shift.any()):
                _add(shifted, *search.sink(param), shift)
    again = capture(shifted, captured.example_inputs)
    found = analyse(again)
    keep = {name: removed_units(deps.group(name), units) for name, units in dead.units.items()}
    model, reason = prune_model(again, found, keep, tolerance=tolerance)
    error = max_difference(captured.graph, model, captured.example_inputs)
    if not error <= tolerance:
        raise VerificationError(
            f"with its dead channels folded, the model differs from the original by {error:.2e} "
            "of its output's scale",
            hint="do not fold dead channels of this network, and report it",
        )
    return model, reason, error


def _is_trained(model: nn.Module, name: str) -> bool:
    return name in dict(model.named_parameters(remove_duplicate=False))


def _add(model: nn.Module, kind: str, name: str, shift: torch.Tensor) -> None:
    if kind == "new":
        layer = model.get_submodule(name)
        weight = layer.get_parameter("weight")
        value = shift.to(device=weight.device, dtype=weight.dtype)
        layer.register_parameter("bias", nn.Parameter(value, requires_grad=weight.requires_grad))
        return
    tensor = model.get_parameter(name) if kind == "bias" else model.get_buffer(name)
    change = shift.to(device=tensor.device, dtype=tensor.dtype)
    tensor.add_(change if kind == "bias" else -change)
