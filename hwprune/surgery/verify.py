"""Verification: the pruned model equals the masked original, or an error says which group lies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import HwpruneError, VerificationError
from hwprune.surgery.apply import cut_graph
from hwprune.surgery.compare import evaluating, in_double, relative_error
from hwprune.surgery.masked import masked_original

Cut = Callable[[Mapping[str, Sequence[int]]], nn.Module]
_SEED = 20240229
_log = logging.getLogger(__name__)

#: Share of the accepted error that may be left in float64 where float32 does not show equality.
_DOUBLE_SHARE = 1e-2


def verify(
    captured: Captured,
    deps: Dependencies,
    keep: Mapping[str, Sequence[int]],
    pruned: nn.Module,
    *,
    tolerance: float = 1e-4,
    recut: Cut | None = None,
) -> float:
    """Compare a pruned model with the masked original on example and random inputs.

    Both run in eval mode; the training flags of ``pruned`` are restored. A network may amplify the
    rounding of float32 until equal ones differ: what is not equal in float32 is compared again in
    float64, where equality must show a hundred times more sharply.

    Parameters
    ----------
    captured, deps, keep
        The original and what was kept of it.
    pruned
        The model to check.
    tolerance
        Largest accepted error, relative to the largest value of the reference's output.
    recut
        How a model is cut for a given ``keep``; used to find the guilty groups after a failure.
        Default: :func:`cut_graph`.

    Returns
    -------
    float
        max|pruned - reference| / max|reference| over all outputs and inputs; in float64 where that
        had to decide.

    Raises
    ------
    VerificationError
        The error is above the tolerance or not a number, an output has another shape, or the
        pruned model does not run. The message names the groups that fail on their own.
    """
    try:
        error = cut_error(captured, deps, keep, pruned, tolerance)
        problem = None if error <= tolerance else f"differs by {error:.2e} of the output's scale"
    except HwpruneError as failure:
        error, problem = float("nan"), failure.message
    if problem is None:
        return error
    alone = verify_each(captured, deps, keep, recut=recut)
    guilty = [name for name, value in alone.items() if not value <= tolerance]
    if guilty:
        who = "wrong on their own: " + ", ".join(f"{name!r}" for name in guilty)
        hint = "exclude these groups and report the network"
    else:
        who = "no group fails when it is cut alone"
        hint = "the model was changed after the cut, or its own code fixes widths"
    raise VerificationError(
        f"the pruned {type(pruned).__name__} is not the masked original: it {problem} "
        f"(accepted: {tolerance:.0e}); {who}",
        hint=hint,
    )


def verify_each(
    captured: Captured,
    deps: Dependencies,
    keep: Mapping[str, Sequence[int]],
    *,
    recut: Cut | None = None,
) -> dict[str, float]:
    """Cut every group alone and measure its error; infinite where the cut does not run.

    Two forward passes per group.
    """
    errors: dict[str, float] = {}
    for name, kept in keep.items():
        if len(kept) == deps.group(name).size:
            continue
        alone = {name: kept}
        try:
            model = recut(alone) if recut is not None else cut_graph(captured, deps, alone)
            errors[name] = max_rel_error(captured, deps, alone, model)
        except Exception:  # whatever a wrong cut makes torch raise
            errors[name] = float("inf")
    return errors


def cut_error(
    captured: Captured,
    deps: Dependencies,
    keep: Mapping[str, Sequence[int]],
    pruned: nn.Module,
    tolerance: float,
) -> float:
    """The number that :func:`verify` judges: of float32, or of float64 where that shows equality.

    Raises
    ------
    VerificationError
        The pruned model does not run, or an output has another shape.
    """
    error = max_rel_error(captured, deps, keep, pruned)
    if error <= tolerance:
        return error
    try:
        exact = max_rel_error(captured, deps, keep, pruned, double=True)
    except Exception:  # whatever torch raises where the model's code names a dtype
        return error
    if not exact <= tolerance * _DOUBLE_SHARE:
        return error
    name = type(pruned).__name__
    _log.warning("%s amplifies rounding: equal in float64, %.1e apart in float32", name, error)
    return exact


def max_rel_error(
    captured: Captured,
    deps: Dependencies,
    keep: Mapping[str, Sequence[int]],
    pruned: nn.Module,
    *,
    double: bool = False,
) -> float:
    """max|pruned - reference| / max|reference|; with ``double`` of copies in float64.

    Raises
    ------
    VerificationError
        The pruned model does not run, or an output has another shape.
    """
    reference: nn.Module = masked_original(captured, deps, keep)
    examples = captured.example_inputs
    if double:
        (reference, _), (pruned, examples) = in_double(reference, ()), in_double(pruned, examples)
    worst = 0.0
    for inputs in (examples, _random_like(examples)):
        with torch.no_grad(), evaluating(pruned):
            wanted = _tensors(reference(*(x.clone() for x in inputs)))
            try:
                got = _tensors(pruned(*(x.clone() for x in inputs)))
            except Exception as error:
                line = str(error).strip().splitlines()[0] if str(error).strip() else ""
                raise VerificationError(f"does not run: {type(error).__name__}: {line}") from error
        if [w.shape for w in wanted] != [g.shape for g in got]:
            shapes = [tuple(g.shape) for g in got]
            raise VerificationError(f"has outputs of shapes {shapes}, not {[tuple(w.shape) for w in wanted]}")
        for w, g in zip(wanted, got, strict=True):
            worst = _larger(worst, relative_error(g, w))
    return worst


def _larger(a: float, b: float) -> float:
    return b if not b <= a else a  # keeps NaN


def _tensors(output: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _random_like(inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Normal values with the mean and spread of the example; integers from its range."""
    generator = torch.Generator().manual_seed(_SEED)
    out: list[torch.Tensor] = []
    for x in inputs:
        if x.is_floating_point():
            wide = x.double()
            spread = wide.std().item() if x.numel() > 1 else 0.0
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            value = wide.mean().item() + (spread if spread > 0 else 1.0) * noise
        elif x.dtype == torch.bool or x.is_complex() or x.numel() == 0:
            value = x
        else:
            value = torch.randint(int(x.min()), int(x.max()) + 1, tuple(x.shape), generator=generator)
        out.append(value.to(dtype=x.dtype, device=x.device))
    return tuple(out)
