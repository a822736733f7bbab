"""A submodule of a model that cannot be exported as a whole, with the inputs that it gets there."""

from __future__ import annotations

import copy
import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hwprune.capture.copies import quiet_copy
from hwprune.capture.diagnose import explain_run_failure, first_lines
from hwprune.errors import CaptureError, UsageError


@dataclass(frozen=True)
class Part:
    """A submodule, ready for :func:`hwprune.capture.capture`.

    Attributes
    ----------
    path
        Where it sits in the whole model.
    module
        What to capture: the submodule itself; or, where it takes lists, dictionaries or keywords,
        a module with the same parameters under the same names that takes all tensors positionally.
    inputs
        Tensors of its first call.
    structure
        How they were arranged, None if they were plain positional arguments.
    calls
        How often the whole model calls it on the example inputs.
    failure
        Why the whole model did not run to its end, None if it did.
    """

    path: str
    module: nn.Module
    inputs: tuple[torch.Tensor, ...]
    structure: Structure | None
    calls: int
    failure: str | None


@dataclass(frozen=True)
class Structure:
    """Arguments with the tensors taken out: ``leaves`` holds None where a tensor was."""

    leaves: tuple[object, ...]
    spec: pytree.TreeSpec

    def fill(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keywords with tensors put in again."""
        queue = iter(tensors)
        leaves = [next(queue) if self._is_tensor(i) else leaf for i, leaf in enumerate(self.leaves)]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return args, kwargs

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, ...] | None:
        """Tensors of a call, None if it is arranged in another way."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        same = spec == self.spec and all(
            isinstance(leaf, torch.Tensor) if self._is_tensor(i) else leaf == self.leaves[i]
            for i, leaf in enumerate(leaves)
        )
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor)) if same else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Structure:
        return self

    def _is_tensor(self, index: int) -> bool:
        return self.leaves[index] is _TENSOR


#: Stands for a tensor among the leaves of a structure.
_TENSOR = "<tensor>"


class _Flat:
    """Mixed into the class of a submodule: its forward takes tensors positionally."""

    hwprune_structure: Structure

    def forward(self, *tensors: torch.Tensor) -> Any:
        args, kwargs = self.hwprune_structure.fill(tensors)
        return super().forward(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] - the mixed-in class


def open_part(model: nn.Module, example_inputs: Sequence[Any], path: str) -> Part:
    """Run a whole model and record what one of its submodules is called with.

    Parameters
    ----------
    model
        The whole model; a private copy of it runs, in eval mode.
    example_inputs
        Positional inputs of the whole model, of any kind (a detector takes a list of images).
    path
        Module path of the submodule, e.g. ``"backbone"`` or ``"rpn.head"``.

    Raises
    ------
    UsageError
        There is no such submodule; near matches are named.
    CaptureError
        The model does not call it on the example inputs, or with something that is neither tensor
        nor number.
    """
    found = _submodule(model, path)
    calls: list[tuple[list[Any], pytree.TreeSpec]] = []
    count = 0

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if not calls:
            leaves, spec = pytree.tree_flatten((args, kwargs))
            kept = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in leaves]
            calls.append((kept, spec))

    twin = private_copy(model)
    twin.get_submodule(path).register_forward_pre_hook(record, with_kwargs=True)
    failure = None
    try:
        with torch.no_grad():
            twin(*example_inputs)
    except Exception as error:
        if not calls:
            if all(isinstance(x, torch.Tensor) for x in example_inputs):
                explain_run_failure(twin, tuple(example_inputs))
            raise CaptureError(
                f"{type(model).__name__} fails on the example inputs before it calls {path!r}: "
                f"{first_lines(error)}",
                hint="check the example inputs: those of the whole model are needed",
            ) from error
        failure = textwrap.shorten(
            f"{type(error).__name__}: {first_lines(error, 1)}", 120, placeholder=" ..."
        )
    if not calls:
        raise CaptureError(
            f"{type(model).__name__} does not call its submodule {path!r} on the example inputs",
            hint="name a submodule that is called as such, perhaps one inside it",
        )
    leaves, spec = calls[0]
    _refuse_objects(leaves, path)
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    if not kwargs and all(isinstance(value, torch.Tensor) for value in args):
        return Part(path, found, tensors, None, count, failure)
    structure = Structure(tuple(_TENSOR if isinstance(x, torch.Tensor) else x for x in leaves), spec)
    return Part(path, _flattened(found, structure), tensors, structure, count, failure)


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode.

    Raises
    ------
    CaptureError
        The model cannot be copied.
    """
    try:
        return quiet_copy(model).eval()
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied: {first_lines(error)}",
            hint="make every tensor attribute a parameter, a buffer or a detached tensor",
        ) from error


def as_called(module: nn.Module) -> nn.Module:
    """A module made from :attr:`Part.module`, with the forward of its own class again."""
    if isinstance(module, _Flat):
        module.__class__ = type(module).__mro__[2]  # pyright: ignore[reportAttributeAccessIssue]
        del module.hwprune_structure
    return module


def _submodule(model: nn.Module, path: str) -> nn.Module:
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if path not in names:
        near = difflib.get_close_matches(path, names, n=3, cutoff=0.4)
        near = near or [name for name, _ in model.named_children()][:3]
        raise UsageError(
            f"{type(model).__name__} has no submodule {path!r}",
            hint=f"the nearest are {', '.join(near)}" if near else "it has no submodules at all",
        )
    return model.get_submodule(path)


def _refuse_objects(leaves: Sequence[object], path: str) -> None:
    for leaf in leaves:
        if leaf is not None and not isinstance(leaf, torch.Tensor | int | float | str):
            raise CaptureError(
                f"submodule {path!r} is called with a {type(leaf).__name__}, which cannot be exported",
                hint="name a submodule inside it that takes tensors, lists or dictionaries of tensors",
            )
    if not any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise CaptureError(f"submodule {path!r} is called without a tensor", hint="name another submodule")


def _flattened(module: nn.Module, structure: Structure) -> nn.Module:
    """A shallow copy (the same parameters under the same names) with a flat forward."""
    twin = copy.copy(module)
    cls = type(module)
    twin.__class__ = type(cls.__name__, (_Flat, cls), {"__module__": cls.__module__})
    twin.hwprune_structure = structure  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return twin
