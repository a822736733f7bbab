"""The repair of whatever is cut from one model, by which cuts are judged before one of them is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hwprune.capture.captured import Captured
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies
from hwprune.repair.after_cut import Origin, repair_cut, warn_of_few
from hwprune.repair.calibration import collect_batches
from hwprune.repair.options import RepairOptions


class CutRepair:
    """A repair to be applied to whatever is cut from one model: for calibration before the choice.

    Parameters
    ----------
    data, options
        As for :func:`hwprune.repair.after_cut.repair_cut`; the data are read once and kept.

    Raises
    ------
    RepairError
        There are no data, or they are not finite.
    """

    def __init__(self, data: Iterable[Any], options: RepairOptions | None = None) -> None:
        self.options = options or RepairOptions()
        self._batches = collect_batches(data, self.options.examples, None)
        if self.options.method != "none":
            warn_of_few(self._batches)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The data that layers are fitted to."""
        values = [v for batch in self._batches for v in (*batch.inputs, *batch.named.values())]
        return [value for value in values if isinstance(value, torch.Tensor)]

    def of(
        self,
        captured: Captured,
        deps: Dependencies,
        keep: Mapping[str, Sequence[int]],
        blocks: Sequence[Block] = (),
    ) -> Callable[[nn.Module], object]:
        """The repair of the model that is cut in this way."""
        origin = Origin(captured.model, captured, deps, keep, tuple(blocks))
        return lambda model: repair_cut(model, origin, self._batches, self.options, quiet=True)
