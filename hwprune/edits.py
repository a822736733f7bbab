"""Public functions around a cut: the optimizer that follows it."""

from __future__ import annotations

import torch

from hwprune.pruned import Pruned
from hwprune.surgery.optimizer import cut_optimizer
from hwprune.surgery.selection import select


def prune_optimizer(optimizer: torch.optim.Optimizer, pruned: Pruned) -> None:
    """Let the optimizer of the original model go on with the pruned one.

    Its parameter groups then hold the parameters of ``pruned.model``, and momentum, moments and
    other state are cut along with them, so training continues as that of the masked original would.
    The optimizer is changed in place: learning-rate schedulers and hooks stay attached. Parameters
    of other models in the same optimizer stay as they are.

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
    shapes |= {name: tuple(p.shape) for name, p in whole.named_parameters(remove_duplicate=False)}
    shapes |= {name: tuple(b.shape) for name, b in whole.named_buffers(remove_duplicate=False)}
    cuts = select(pruned.deps, pruned.plan.keep, shapes)
    if pruned.submodule is not None:
        cuts = {f"{pruned.submodule}.{name}": dims for name, dims in cuts.items()}
    cut_optimizer(optimizer, pruned.original, pruned.model, cuts)
