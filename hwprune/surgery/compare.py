"""Do two models compute the same?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hwprune.capture.diagnose import first_lines
from hwprune.capture.parametrized import deep_copy
from hwprune.errors import VerificationError

_SEED = 20240229


def max_difference(reference: nn.Module, model: nn.Module, inputs: Sequence[Any]) -> float:
    """Largest difference of outputs, relative to the largest value of the reference's output.

    Both run in eval mode on the example inputs and on random ones like them; training flags are
    restored.

    Parameters
    ----------
    reference, model
        Modules that take the same positional inputs.
    inputs
        Example inputs; lists and dictionaries of tensors are allowed.

    Returns
    -------
    float
        Infinite where shapes differ, NaN where values are not finite in another way.

    Raises
    ------
    VerificationError
        ``model`` does not run.
    """
    worst = 0.0
    for number, values in enumerate((inputs, pytree.tree_map(_noise(), tuple(inputs)))):
        try:
            wanted = outputs_of(reference, values)
        except Exception:
            if number == 0:
                raise
            break  # not every model takes noise
        try:
            got = outputs_of(model, values)
        except Exception as error:
            raise VerificationError(
                f"{type(model).__name__} does not run: {type(error).__name__}: {first_lines(error, 1)}"
            ) from error
        if [w.shape for w in wanted] != [g.shape for g in got]:
            return float("inf")
        for w, g in zip(wanted, got, strict=True):
            error = relative_error(g, w)
            worst = error if not error <= worst else worst  # keeps NaN
    return worst


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """max|value - reference| / max|reference|; NaN where either is not finite in another way."""
    if reference.numel() == 0:
        return 0.0
    value, reference = value.double(), reference.double()
    same = (value == reference) | (value.isnan() & reference.isnan())
    difference = torch.where(same, 0.0, (value - reference).abs()).max().item()
    scale = reference.abs().max().item()
    return difference / scale if scale > 0 else difference


def in_double(model: nn.Module, inputs: Sequence[Any]) -> tuple[nn.Module, tuple[Any, ...]]:
    """A copy of a model and its inputs in double precision."""

    def convert(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if floating else value

    return deep_copy(model).double(), pytree.tree_map(convert, tuple(inputs))


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Eval mode inside, every module's own flag again outside."""
    flags = [(module, module.training) for module in model.modules()]
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
        for module, flag in flags:
            module.training = flag


def outputs_of(model: nn.Module, inputs: Sequence[Any]) -> list[torch.Tensor]:
    """All tensors that a model returns in eval mode; it is given copies of the inputs."""
    own = pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, tuple(inputs))
    with torch.no_grad(), evaluating(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return [leaf for leaf in pytree.tree_leaves(model(*own)) if isinstance(leaf, torch.Tensor)]


def _noise() -> Callable[[Any], Any]:
    """Maps a floating tensor to normal values with its mean and spread; the rest stays."""
    generator = torch.Generator().manual_seed(_SEED)

    def draw(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() == 0:
            return value
        wide = value.double()
        spread = wide.std().item() if wide.numel() > 1 else 0.0
        noise = torch.randn(wide.shape, generator=generator, dtype=torch.float64).to(value.device)
        return (wide.mean() + (spread or 1.0) * noise).to(value.dtype)

    return draw
