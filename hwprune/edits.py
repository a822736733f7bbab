"""Public functions around a cut: blocks and dead channels that go, and the optimizer that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hwprune.capture import Captured, capture
from hwprune.capture.copies import quiet_copy
from hwprune.capture.tensors import shapes_of
from hwprune.dependency import Refusal, analyse, blocks
from hwprune.pruned import Pruned
from hwprune.surgery.blocks import choose_blocks
from hwprune.surgery.blocks import remove_blocks as take_out
from hwprune.surgery.dead import find_dead
from hwprune.surgery.dead import fold_dead as fold
from hwprune.surgery.optimizer import cut_optimizer
from hwprune.surgery.selection import select


@dataclass(frozen=True)
class Trimmed:
    """A model without some of its residual blocks.

    Attributes
    ----------
    model
        Trainable: the user's own class with ``nn.Identity`` in the place of the blocks where that
        is right, else a ``torch.fx.GraphModule`` (the ledger then says why).
    removed
        Names of the blocks that are gone.
    ledger
        Blocks that cannot be removed, and why.
    max_rel_error
        Largest difference from the original with the blocks' branches zeroed, relative to the
        output's scale.
    """

    model: nn.Module
    removed: tuple[str, ...]
    ledger: tuple[Refusal, ...]
    max_rel_error: float


def find_blocks(
    model: nn.Module, example_inputs: Sequence[torch.Tensor] | torch.Tensor
) -> tuple[blocks.Block, ...]:
    """Residual blocks of a model; one that cannot be removed says why in ``reason``.

    Raises
    ------
    CaptureError
        The model cannot be exported, or does not accept the inputs.
    """
    return _blocks(_capture(model, example_inputs))


def remove_blocks(
    model: nn.Module, example_inputs: Sequence[torch.Tensor] | torch.Tensor, names: Sequence[str]
) -> Trimmed:
    """Take residual blocks out of a model, so that their shortcuts are all that is left of them.

    The model itself is not changed; the result is verified against it, with the blocks' branches
    zeroed. Channels of the result can be pruned afterwards.

    Parameters
    ----------
    model, example_inputs
        As for :func:`hwprune.prune`.
    names
        Names from :func:`find_blocks`.

    Raises
    ------
    CaptureError
        The model cannot be exported, or does not accept the inputs.
    PlanError
        There is no block of this name, or it cannot be removed.
    VerificationError
        The result does not equal the original with the branches zeroed.

    Examples
    --------
    >>> [block.name for block in hwprune.find_blocks(model, x) if block.reason is None]
    ['layer1.0', 'layer1.1', 'layer2.1', 'layer3.1', 'layer4.1']
    >>> smaller = hwprune.remove_blocks(model, x, ["layer3.1"]).model
    """
    captured = _capture(model, example_inputs)
    found = _blocks(captured)
    chosen = choose_blocks(found, names)
    smaller, reason, error = take_out(captured, chosen)
    ledger = [Refusal(b.name, 0, b.reason) for b in found if b.reason is not None]
    if reason is not None:
        ledger.append(Refusal("model", 0, reason))
    return Trimmed(smaller, tuple(b.name for b in chosen), tuple(ledger), error)


@dataclass(frozen=True)
class Folded:
    """A model without channels that were constant whatever its input.

    Attributes
    ----------
    model
        Trainable: the user's own class where its code follows the new widths, else a
        ``torch.fx.GraphModule`` (the ledger then says why).
    removed
        Group to the units that are gone; empty if there was none.
    ledger
        Constant channels that have to stay, and why.
    max_rel_error
        Largest difference from the original, relative to the output's scale.
    """

    model: nn.Module
    removed: Mapping[str, tuple[int, ...]]
    ledger: tuple[Refusal, ...]
    max_rel_error: float


def fold_dead(model: nn.Module, example_inputs: Sequence[torch.Tensor] | torch.Tensor) -> Folded:
    """Remove channels that are constant whatever the input; the model computes the same as before.

    Sparse training leaves BatchNorm scales of zero behind: such a channel is its bias everywhere.
    Followed through activations and pooling, the constant is added to the biases (or taken from
    the running means) of the layers that read it, and the channel goes. A convolution with zero
    padding takes up a constant only if it is zero, for at the border its effect is another.

    The model itself is not changed. Only eval mode counts: in training, a dead channel could come
    back to life.

    Raises
    ------
    CaptureError
        The model cannot be exported, or does not accept the inputs.
    VerificationError
        The result does not equal the original.
    """
    captured = _capture(model, example_inputs)
    deps = analyse(captured)
    dead = find_dead(captured, deps)
    if not dead.units:
        return Folded(quiet_copy(model), {}, dead.ledger, 0.0)
    smaller, reason, error = fold(captured, deps, dead)
    ledger = dead.ledger if reason is None else (*dead.ledger, Refusal("model", 0, reason))
    return Folded(smaller, dead.units, ledger, error)


def _capture(model: nn.Module, example_inputs: Sequence[torch.Tensor] | torch.Tensor) -> Captured:
    single = isinstance(example_inputs, torch.Tensor)
    return capture(model, (example_inputs,) if single else tuple(example_inputs))


def _blocks(captured: Captured) -> tuple[blocks.Block, ...]:
    return blocks.find_blocks(captured, analyse(captured))


def prune_optimizer(optimizer: torch.optim.Optimizer, pruned: Pruned) -> None:
    """Let the optimizer of the original model go on with the pruned one.

    Its parameter groups then hold the parameters of ``pruned.model``, and momentum, moments and
    other state are cut along with them, so training continues as that of the masked original would.
    Parameters of removed blocks leave it. The optimizer is changed in place: learning-rate schedulers
    and hooks stay attached. Parameters of other models in the same optimizer stay as they are.

    Raises
    ------
    UsageError
        The optimizer holds no parameter of the original model.
    SurgeryError
        It keeps state that is not shaped like the parameters (LBFGS, Shampoo).

    Examples
    --------
    >>> optimizer = torch.optim.AdamW(model.parameters())     # trained for some epochs
    >>> pruned = hwprune.prune(model, example_inputs, latency="50%")
    >>> hwprune.prune_optimizer(optimizer, pruned)            # and train pruned.model on
    """
    whole = pruned.captured.model
    shapes = {name: tuple(p.shape) for name, p in pruned.captured.graph.state_dict().items()}
    shapes |= shapes_of(whole)
    cuts = select(pruned.deps, pruned.plan.remaining, shapes)
    if pruned.submodule is not None:
        cuts = {f"{pruned.submodule}.{name}": dims for name, dims in cuts.items()}
    cut_optimizer(optimizer, pruned.original, pruned.model, cuts)
