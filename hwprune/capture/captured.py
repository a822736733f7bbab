"""A captured model: the torch.fx graph that every later stage reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx, nn


@dataclass(frozen=True)
class Captured:
    """The result of :func:`hwprune.capture.capture`.

    Attributes
    ----------
    graph
        ``torch.fx.GraphModule`` of ATen operators with in-place operators made functional.
        Parameters and buffers are ``get_attr`` nodes under the names of the user's module;
        every tensor node has ``meta["val"]`` (a fake tensor: shape, dtype) and, where it came
        from a module, ``meta["nn_module_stack"]``. It owns copies of the parameters.
    model
        The user's module, untouched.
    example_inputs
        Positional example inputs that were used for the export.
    """

    graph: fx.GraphModule
    model: nn.Module
    example_inputs: tuple[torch.Tensor, ...]
