"""Derivatives of a loss with respect to factors (now one) on every unit."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.importance.gates import gated_graph
from hwprune.importance.places import At, places_of

#: Per group one vector ``[size]``.
Vectors = dict[str, Tensor]


class GateSpace:
    """A model with a gate on every unit of every group.

    Make it in the mode that is wanted (evaluation mode, or BatchNorm couples the examples), compute a
    loss with ``model`` under ``torch.enable_grad``, and ask for derivatives of it. Parameters are
    not touched, and frozen ones serve as well. No more than the graph of one loss is held.

    Attributes
    ----------
    model
        Runs like the captured graph.
    gates
        Per group ones ``[size]`` that require a gradient.
    """

    def __init__(self, captured: Captured, deps: Dependencies, at: At) -> None:
        self.model, self._factors = gated_graph(captured, deps, places_of(captured, deps, at))
        self.gates: Vectors = {name: ones.requires_grad_() for name, ones in self._factors.items()}

    def gradient(self, loss: Tensor, *, create_graph: bool = False) -> Vectors:
        """First derivatives; zero where the loss does not depend on a gate."""
        found = _derive(loss, list(self.gates.values()), create_graph=create_graph)
        return dict(zip(self.gates, found, strict=True))

    def hessian_product(
        self, loss: Tensor, direction: Mapping[str, Tensor] | None = None
    ) -> tuple[Vectors, Vectors]:
        """Gradient, and the Hessian times a direction (default: all ones), in one second pass.

        Compute the loss under :func:`twice_differentiable`.
        """
        first = self.gradient(loss, create_graph=True)
        second = self._product(first, direction)
        return {name: value.detach() for name, value in first.items()}, second

    def hessian_diagonal(
        self, loss: Tensor, *, probes: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Vectors, Vectors]:
        """Gradient, and the diagonal of the Hessian.

        Parameters
        ----------
        loss
            Computed under :func:`twice_differentiable`.
        probes
            None: exact, by one product per unit. Otherwise the mean of ``v * (H v)`` over that many
            vectors of random signs (Bekas, Kokiopoulou and Saad, 2007): unbiased, and exact for a
            diagonal Hessian.
        generator
            Of the signs.
        """
        first = self.gradient(loss, create_graph=True)
        totals = {name: torch.zeros_like(value) for name, value in first.items()}
        if probes is None:
            for name, value in first.items():
                for unit in range(len(value)):
                    (row,) = _derive(value[unit], [self.gates[name]], keep=True)
                    totals[name][unit] = row[unit]
        else:
            for _ in range(probes):
                signs = {name: _signs(value, generator) for name, value in first.items()}
                for name, value in self._product(first, signs, keep=True).items():
                    totals[name] += signs[name] * value / probes
        return {name: value.detach() for name, value in first.items()}, totals

    @contextmanager
    def rows(self, values: Mapping[str, Tensor]) -> Generator[None]:
        """For a while, factors ``[examples, size]``: a row of its own for every example."""
        before = dict(self._factors)
        self._factors.update(values)
        try:
            yield
        finally:
            self._factors.update(before)

    def _product(
        self, first: Vectors, direction: Mapping[str, Tensor] | None, *, keep: bool = False
    ) -> Vectors:
        along = [
            (value if direction is None else value * direction[name]).sum() for name, value in first.items()
        ]
        found = _derive(torch.stack(along).sum(), list(self.gates.values()), keep=keep)
        return dict(zip(self.gates, found, strict=True))


@contextmanager
def twice_differentiable() -> Generator[None]:
    """Attention is computed by operators that can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _derive(
    value: Tensor, inputs: list[Tensor], *, create_graph: bool = False, keep: bool = False
) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    return torch.autograd.grad(
        value,
        inputs,
        create_graph=create_graph,
        retain_graph=create_graph or keep,
        allow_unused=True,
        materialize_grads=True,
    )


def _signs(like: Tensor, generator: torch.Generator | None) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.long)
    return (2 * drawn - 1).to(like)
