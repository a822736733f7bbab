"""Training and evaluation mode, switched for a while and put back exactly."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Generator[None, None, None]:
    """Put the model into one mode; afterwards every submodule has its own mode again.

    ``train()`` is called rather than the flag set, because graph models switch node arguments
    there.
    """
    before = [(module, module.training) for module in model.modules()]
    if any(flag != training for _, flag in before):
        model.train(training)
    try:
        yield
    finally:
        # Parents come first, so a child whose flag differs from its parent's is put right after it.
        for module, flag in before:
            if module.training != flag:
                module.train(flag)
