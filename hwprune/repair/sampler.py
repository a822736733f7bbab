"""The rows that one layer is fitted to: what it reads in the pruned network, what it should write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from hwprune.importance.consumers import Consumer
from hwprune.importance.gram import Gram
from hwprune.importance.rows import Positions, Rows, inputs_at, outputs_at, spots_of
from hwprune.repair.places import Place, tensor_at
from hwprune.repair.regression import Fit, Ridge, fit_rows, fit_scales, fit_sums

Method = Literal["least_squares", "scales"]

#: More inputs than this: sums of their products would not fit, the rows themselves are kept.
_WIDEST = 6144
#: Rows kept in that case, and rows summed in the other.
_ROWS_KEPT, _ROWS_SUMMED = 4096, 20_000


@dataclass(frozen=True)
class Fitting:
    """How layers are fitted.

    Attributes
    ----------
    method
        ``"least_squares"`` of whole weights, or ``"scales"``: one factor per input channel.
    ridge
        See :class:`hwprune.repair.regression.Ridge`.
    positions
        Positions per example. None: as many as it takes for four rows per column, 10 at least.
    residual
        Correct the last layer of a residual branch for the error of its shortcut.
    every_layer
        Fit layers that lost no input channel, too.
    seed
        Of the positions.
    memory_bytes
        What activations between two layers may take.
    quiet
        Do not say that more memory would save time.
    """

    method: Method = "least_squares"
    ridge: Ridge = Ridge()  # noqa: RUF009 - frozen
    positions: int | None = None
    residual: bool = True
    every_layer: bool = False
    seed: int = 0
    memory_bytes: float = 1e9
    quiet: bool = False


class Sampler:
    """Collects the rows of one layer: as sums, or as they are where it has more inputs than rows."""

    def __init__(
        self, place: Place, pruned: fx.GraphModule, kept: torch.Tensor | None, fitting: Fitting, columns: int
    ) -> None:
        #: What the output is added to, in the original and in the pruned network, if that is corrected for.
        self.others: tuple[str, str] | None = None
        self.count = 0
        self._place, self._kept, self._columns, self._fitting = place, kept, columns, fitting
        self._gram = Gram()
        self._rows: list[Rows] = []
        self._summed: bool | None = None
        self._factor = _output_scale(pruned, place)

    def add(
        self,
        number: int,
        size: int,
        examples: int,
        output: torch.Tensor,
        wanted: Mapping[str, Any],
        values: Mapping[str, Any],
    ) -> None:
        """Take in one batch: ``wanted`` are values of the original, ``values`` of the pruned network."""
        consumer, node = self._place.consumer, self._place.node
        each = self._fitting.positions or max(10, math.ceil(4 * self._columns / examples))
        each = max(1, min(each, _ROWS_SUMMED // examples))
        first = output.shape[0] if output.ndim > 1 else 1
        at = Positions(each, self._fitting.seed).draw(
            node.name, number, first, spots_of(consumer, output), size
        )
        target = self._of(consumer, output, at)
        if self.others is not None:
            before, now = self.others
            missing = self._of(consumer, wanted[before], at) - outputs_at(consumer, values[now], at)
            target = target + missing * self._factor
        rows = Rows(
            _precise(inputs_at(consumer, node, values[self._place.input], at, output.shape[2:])),
            _precise(target).unflatten(1, (consumer.groups, -1)),
        )
        if self._summed is None:
            whole = len(rows) * examples / size
            self._summed = self._fitting.method == "scales" or (self._columns <= min(whole, _WIDEST))
        if self._summed:
            self._gram.add(rows)
            self.count += len(rows)
        elif self.count < _ROWS_KEPT:
            self._rows.append(rows)
            self.count += len(rows)

    def fit(self, weight: torch.Tensor, bias: torch.Tensor, ridge: Ridge, method: Method) -> Fit:
        if method == "scales":
            return fit_scales(self._gram, weight, bias, self._place.consumer.kernel, ridge)
        if self._summed:
            return fit_sums(self._gram, weight, bias, ridge)
        rows = Rows(torch.cat([r.x for r in self._rows]), torch.cat([r.y for r in self._rows]))
        return fit_rows(rows, weight, bias, ridge)

    def _of(self, consumer: Consumer, whole: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Rows of a tensor of the original, in the channels that are left."""
        rows = outputs_at(consumer, whole, at)
        return rows if self._kept is None else rows[:, self._kept.to(rows.device)]


def _precise(rows: torch.Tensor) -> torch.Tensor:
    """Sums of products in half precision would be worth nothing."""
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def _output_scale(graph: fx.GraphModule, place: Place) -> torch.Tensor | float:
    """What a difference behind the BatchNorm is in front of it; 0 where nothing gets through."""
    norm = place.norm
    if norm is None:
        return 1.0
    spread = (tensor_at(graph, norm.variance).detach() + norm.eps).sqrt()
    if norm.scale is None:
        return spread
    scale = tensor_at(graph, norm.scale).detach()
    return torch.where(scale.abs() > 1e-6 * spread, spread / scale, 0.0)
