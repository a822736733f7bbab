"""Averages of scores over minibatches and pruning steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hwprune.errors import UsageError


class Momentum:
    """A running average of averages.

    Scores of ``every`` minibatches are averaged; each such average ``I`` moves the running one to
    ``momentum * before + (1 - momentum) * I``. The first one is taken as it is.

    Parameters
    ----------
    momentum
        What the past keeps, from 0 (nothing) to below 1.
    every
        Minibatches per average; None for all that come, until :meth:`close`.
    """

    def __init__(self, momentum: float, every: int | None = None) -> None:
        if not 0.0 <= momentum < 1.0:
            raise UsageError(f"momentum is {momentum}", hint="use 0 or more and less than 1, such as 0.9")
        if every is not None and every < 1:
            raise UsageError(f"every is {every}", hint="average over 1 minibatch or more")
        self.momentum, self.every = momentum, every
        self.count = 0
        self.sums: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}

    def add(self, scores: Mapping[str, Tensor]) -> None:
        """Scores of one minibatch, per group ``[size]``."""
        for name, value in scores.items():
            now = value.detach().cpu().double()
            self.sums[name] = self.sums[name] + now if name in self.sums else now
        self.count += 1
        if self.count == self.every:
            self.close()

    def close(self) -> None:
        """What has come since the last average makes the next one, however much it is."""
        if self.count == 0:
            return
        now = {name: value / self.count for name, value in self.sums.items()}
        if self.average:
            keep = self.momentum
            now = {name: keep * self.average[name] + (1 - keep) * value for name, value in now.items()}
        self.average, self.sums, self.count = now, {}, 0

    def value(self) -> dict[str, Tensor]:
        """The running average now; what is not yet a full average counts as one."""
        self.close()
        return dict(self.average)

    def keep(self, units: Mapping[str, torch.Tensor]) -> None:
        """Forget units that were cut; ``units`` are the indices of those that stay, by group."""
        for values in (self.sums, self.average):
            for name, chosen in units.items():
                if name in values:
                    values[name] = values[name][chosen]
