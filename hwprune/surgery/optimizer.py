"""An optimizer follows its parameters: momentum and moments are cut like the weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hwprune.errors import SurgeryError, UsageError
from hwprune.surgery.selection import Cuts, cut_tensor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Successor:
    """What takes the place of a parameter; ``parameter`` is None where the pruned model has none."""

    name: str
    parameter: nn.Parameter | None
    dims: Mapping[int, torch.Tensor]


def cut_optimizer(
    optimizer: torch.optim.Optimizer, original: nn.Module, pruned: nn.Module, cuts: Cuts
) -> None:
    """Point an optimizer at the parameters of a pruned model and cut its state along.

    Options of the parameter groups, their order, hooks and learning-rate schedulers stay. Parameters
    that the pruned model does not have (it was cut to a graph that never reads them) leave their
    group; parameters that are not of ``original`` stay. The optimizer is changed all at once, or
    not at all.

    Parameters
    ----------
    optimizer
        Optimizer of ``original``'s parameters, with any state.
    original, pruned
        The model before and after the cut; parameters correspond by name.
    cuts
        Kept indices by parameter name of ``original`` (first name of shared parameters).

    Raises
    ------
    UsageError
        The optimizer holds no parameter of ``original``.
    SurgeryError
        A parameter's state is not shaped like the parameter (LBFGS, Shampoo), its shape is not
        that of the cut, or the pruned model learns what the original computed (weight norm).
    """
    heirs = _successors(original, pruned, cuts)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(id(p) in heirs for p in held):
        known = {id(p) for p in pruned.parameters()}
        done = bool(held) and all(id(p) in known for p in held)
        raise UsageError(
            f"the {type(optimizer).__name__} holds no parameter of the {type(original).__name__} "
            "that was pruned",
            hint="it holds those of the pruned model already"
            if done
            else "give the optimizer that trained the very model that was pruned",
        )
    groups = [_follow(group, heirs) for group in optimizer.param_groups]
    state: dict[Any, Any] = {}
    for key, entry in optimizer.state.items():
        heir = heirs.get(id(key))
        if heir is None:
            state[key] = entry
        elif heir.parameter is not None:
            state[heir.parameter] = _cut_state(entry, key, heir, optimizer)
    # Nothing was changed so far; schedulers hold on to the optimizer and to its groups.
    for group, changed in zip(optimizer.param_groups, groups, strict=True):
        group.update(changed)
    optimizer.state.clear()
    optimizer.state.update(state)


def _successors(original: nn.Module, pruned: nn.Module, cuts: Cuts) -> dict[int, _Successor]:
    """By identity of the old parameter; one that is shared has several names."""
    new = dict(pruned.named_parameters(remove_duplicate=False))
    old_names = {name for name, _ in original.named_parameters(remove_duplicate=False)}
    unknown = [name for name, p in new.items() if name not in old_names and p.requires_grad]
    if unknown:
        raise SurgeryError(
            f"the pruned model learns {unknown[0]!r}, which the original computes from other parameters",
            hint="make a new optimizer of the pruned model's parameters",
        )
    names: dict[int, list[str]] = {}
    for name, old in original.named_parameters(remove_duplicate=False):
        names.setdefault(id(old), []).append(name)
    heirs: dict[int, _Successor] = {}
    for key, own in names.items():
        parameter = next((new[name] for name in own if name in new), None)
        dims = next((cuts[name] for name in own if name in cuts), {})
        heirs[key] = _Successor(own[0], parameter, dims)
        if parameter is None:
            _log.info("the pruned model has no parameter %r; the optimizer lets go of it", own[0])
    return heirs


def _follow(group: Mapping[str, Any], heirs: Mapping[int, _Successor]) -> dict[str, Any]:
    """New parameters of a group, and their names where the group has names."""
    names: Sequence[str | None] = group.get("param_names") or [None] * len(group["params"])
    kept: list[tuple[str | None, nn.Parameter]] = []
    for name, parameter in zip(names, group["params"], strict=True):
        heir = heirs.get(id(parameter))
        if heir is None:
            kept.append((name, parameter))
        elif heir.parameter is not None:
            kept.append((name, heir.parameter))
    changed: dict[str, Any] = {"params": [parameter for _, parameter in kept]}
    if "param_names" in group:
        changed["param_names"] = [name for name, _ in kept]
    return changed


def _cut_state(
    entry: Mapping[str, Any], old: torch.Tensor, heir: _Successor, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    return {key: _cut_value(key, value, old, heir, optimizer) for key, value in entry.items()}


def _cut_value(
    key: str, value: Any, old: torch.Tensor, heir: _Successor, optimizer: torch.optim.Optimizer
) -> Any:
    """Tensors shaped like the parameter are cut like it; dimensions of one entry are means and stay."""
    if not isinstance(value, torch.Tensor):
        if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)):
            raise _misshapen(key, "a collection of tensors", heir, optimizer)
        return copy.deepcopy(value)
    if value.dim() == 0 or (value.numel() == 1 and old.numel() != 1):
        return value.clone()  # a step count
    fits = value.dim() == old.dim() and all(n in (1, o) for n, o in zip(value.shape, old.shape, strict=True))
    if not fits:
        raise _misshapen(key, f"of shape {tuple(value.shape)}", heir, optimizer)
    dims = {dim: kept for dim, kept in heir.dims.items() if value.shape[dim] == old.shape[dim]}
    out = cut_tensor(value, dims)
    assert heir.parameter is not None
    if any(n not in (1, p) for n, p in zip(out.shape, heir.parameter.shape, strict=True)):
        raise SurgeryError(
            f"parameter {heir.name!r} of the pruned model has shape {tuple(heir.parameter.shape)}, "
            f"its {key!r} would have {tuple(out.shape)}",
            hint="give the pruned model as hwprune made it",
        )
    return out


def _misshapen(key: str, what: str, heir: _Successor, optimizer: torch.optim.Optimizer) -> SurgeryError:
    return SurgeryError(
        f"the state {key!r} that {type(optimizer).__name__} has of {heir.name!r} is {what}, "
        "not shaped like the parameter, so it cannot be cut along",
        hint="make a new optimizer of the pruned model's parameters",
    )
