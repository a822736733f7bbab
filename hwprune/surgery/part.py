"""A pruned submodule goes back into a copy of the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from hwprune.capture.copies import quiet_copy
from hwprune.capture.diagnose import first_lines
from hwprune.capture.part import Part, Structure, as_called
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import Dependencies
from hwprune.errors import SurgeryError, VerificationError
from hwprune.surgery.compare import in_double, max_difference, outputs_of


def put_back(model: nn.Module, part: Part, smaller: nn.Module) -> nn.Module:
    """A deep copy of the whole model with the pruned submodule in its place; see :func:`replace_module`.

    Raises
    ------
    SurgeryError
        The submodule is a graph that cannot take the arguments that the whole model gives it.
    """
    smaller = as_called(smaller)
    if isinstance(smaller, fx.GraphModule) and part.structure is not None:
        raise SurgeryError(
            f"the class {type(part.module).__name__} of {part.path!r} fixes widths in its own "
            "code, and its graph form cannot take the lists, dictionaries or keywords that it is called with",
            hint="prune a submodule inside it",
        )
    return replace_module(model, part.path, smaller)


def _keep_attributes(graph: nn.Module, module: nn.Module) -> None:
    """What the rest of the model may ask the submodule for, such as ``out_channels``."""
    for name, value in vars(module).items():
        plain = isinstance(value, int | float | str | tuple | None)
        if plain and not name.startswith("_") and not hasattr(graph, name):
            setattr(graph, name, value)


def replace_module(model: nn.Module, path: str, smaller: nn.Module) -> nn.Module:
    """A deep copy of a model with another module at ``path``.

    Wherever the model refers to the old module, to a module inside it or to one of its parameters,
    the copy refers to the new one's; tied parameters stay tied. Gradients are dropped.
    """
    old = model.get_submodule(path)
    memo: dict[int, Any] = {}
    pairs: list[tuple[Any, Any]] = [
        (old.named_parameters, smaller.named_parameters),
        (old.named_buffers, smaller.named_buffers),
    ]
    if isinstance(smaller, fx.GraphModule):
        _keep_attributes(smaller, old)
    else:
        pairs.append((old.named_modules, smaller.named_modules))
    for before, after in pairs:
        new = dict(after(remove_duplicate=False))
        memo |= {id(value): new[name] for name, value in before(remove_duplicate=False) if name in new}
    memo[id(old)] = smaller
    whole = quiet_copy(model, memo)
    for parameter in whole.parameters():
        parameter.grad = None
    return whole


def shared_outside(model: nn.Module, part: Part, deps: Dependencies) -> dict[str, str]:
    """Groups whose parameters the rest of the model uses, too, each with the reason to keep it."""
    old = model.get_submodule(part.path)
    places = [p for p, module in model.named_modules(remove_duplicate=False) if module is old]
    inside = {id(t): name for name, t in named_tensors(old).items()}
    outside = {
        inside[id(tensor)]: name
        for name, tensor in named_tensors(model).items()
        if id(tensor) in inside and not any(name.startswith(f"{place}.") for place in places)
    }
    same = {
        name: outside[inside[id(tensor)]]
        for name, tensor in named_tensors(old).items()
        if inside[id(tensor)] in outside
    }
    reasons: dict[str, str] = {}
    for group in deps.groups:
        for member in group.members:
            if member.param in same:
                reasons[group.name] = f"{member.param} is also {same[member.param]}, outside {part.path}"
    return reasons


def verify_whole(
    model: nn.Module,
    part: Part,
    whole: nn.Module,
    masked: nn.Module,
    example_inputs: Sequence[Any],
    *,
    tolerance: float = 1e-4,
) -> float:
    """Compare the whole model, pruned, with the original in which the submodule is masked.

    What follows the submodule may decide on its values (thresholds, non-maximum suppression), and
    rounding may decide otherwise; so where outputs differ, both run once more in double precision.

    Parameters
    ----------
    model, part
        The original and the submodule that was pruned.
    whole
        Result of :func:`put_back`.
    masked
        The submodule's masked original, as :func:`hwprune.surgery.masked_original` makes it.
    example_inputs
        Inputs of the whole model.

    Returns
    -------
    float
        The largest relative difference.

    Raises
    ------
    VerificationError
        They differ, or the pruned model does not run.
    """
    reference = _reference(model, part, masked, example_inputs)
    error = max_difference(reference, whole, example_inputs)
    if error <= tolerance:
        return error
    try:
        (wanted, inputs), (got, _) = in_double(reference, example_inputs), in_double(whole, example_inputs)
        precise = max_difference(wanted, got, inputs)
        again = f"{precise:.2e} in double precision"
    except Exception as failure:  # a forward that makes float32 tensors of its own
        precise, again = float("nan"), f"it does not run in double precision: {first_lines(failure, 1)}"
    if precise <= tolerance:
        return precise
    raise VerificationError(
        f"with its {part.path!r} pruned, {type(model).__name__} is not the original with {part.path!r} "
        f"masked: outputs differ by {error:.2e} of their scale ({again})",
        hint=f"is {part.path!r}, or something inside it, used besides being called?",
    )


class _AsCalled(nn.Module):
    """A flat graph, called the way the whole model calls the submodule."""

    def __init__(self, graph: nn.Module, structure: Structure) -> None:
        super().__init__()
        self.graph = graph
        self.structure = structure

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = self.structure.take(args, kwargs)
        if tensors is None:
            raise VerificationError("the submodule is called with other arguments than at first")
        return self.graph(*tensors)


def _reference(model: nn.Module, part: Part, masked: nn.Module, example_inputs: Sequence[Any]) -> nn.Module:
    """The whole original with the submodule masked."""
    old = model.get_submodule(part.path)
    _keep_attributes(masked, old)
    called = masked if part.structure is None else _AsCalled(masked, part.structure)
    whole = quiet_copy(model, {id(old): called})
    try:
        outputs_of(whole, example_inputs)
    except Exception:  # called again at another size, which a graph does not take: mask by name
        twin = quiet_copy(model)
        twin.get_submodule(part.path).load_state_dict(masked.state_dict(), strict=False)
        return twin
    return whole
