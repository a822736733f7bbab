"""Activations and their gradients, as they pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn

from hwprune.capture.captured import Captured
from hwprune.importance.instrument import CopiedGraph
from hwprune.importance.places import Place

#: Called in the backward pass with the places on a tensor, its value, and its gradient.
Seen = Callable[[Sequence[Place], Tensor, Tensor], None]


def with_observers(captured: Captured, places: Sequence[Place], seen: Seen) -> fx.GraphModule:
    """A copy of the graph that shows the values at places and their gradients in each backward pass.

    Nothing is copied, and nothing is held longer than the backward pass needs it anyway. The
    gradient is the one that comes from the readers of the place only.

    Parameters
    ----------
    captured
        The captured model; not changed.
    places
        Of kind ``"value"``.
    seen
        Called once per tensor and backward pass; it must not keep the tensors.
    """
    copied = CopiedGraph(captured)
    copied.send_through(places, lambda members: _Observer(members, seen))
    return copied.finished()


class _Observer(nn.Module):
    def __init__(self, places: Sequence[Place], seen: Seen) -> None:
        super().__init__()
        self._places, self._seen = tuple(places), seen

    def forward(self, x: Tensor) -> Tensor:
        # In front of the first observer nothing requires gradients.
        source = x if x.requires_grad or not torch.is_grad_enabled() else x.detach().requires_grad_()
        shown = source.view_as(source)
        if shown.requires_grad:
            value = x.detach()
            shown.register_hook(lambda gradient: self._seen(self._places, value, gradient))
        return shown
