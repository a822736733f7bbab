"""Channel independence: how much of a feature map cannot be made from the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import fx

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Dependencies, Tap
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.modes import in_mode
from hwprune.importance.nuclear import independence
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.shared import shared_taps
from hwprune.importance.values import checked_value, rows_of_units, warn_if_all_alike, watch_values

#: Entries of what is held of one activation at a time, in double precision.
_CHUNK = 1 << 24


@register
class Chip(Criterion):
    """Fall of the nuclear norm of the matrix of feature maps when the unit's row is zeroed.

    A row is a unit's map behind its activation, flattened (a head's is its output over all tokens).
    Per example, then the mean. In a stage of residual blocks, the mean over all its sums.

    Parameters
    ----------
    side
        Maps larger than this are averaged down to it before (ours: it bounds time and memory);
        ``None`` takes them whole, as the authors do.
    relative
        Divide by the nuclear norm of the example's matrix first, so that examples weigh the same
        (ours).

    Notes
    -----
    The score grows with the map's magnitude: two equal strong maps are each worth more than a weak
    independent one.
    """

    name: ClassVar[str] = "chip"
    data_need: ClassVar[DataNeed] = "unlabelled"
    comparability: ClassVar[Comparability] = "within_group"
    paper: ClassVar[str] = "Sui et al., CHIP: Channel Independence-based Pruning, NeurIPS 2021"
    formula: ClassVar[str] = (
        "‖A‖* − ‖A with the unit's row zeroed‖*, mean over examples; A: one flattened map per row"
    )
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "one forward pass; one eigendecomposition per example and tensor; one activation"

    def __init__(self, side: int | None = 8, relative: bool = False) -> None:
        if side is not None and side < 1:
            raise UsageError(f"chip has side {side}", hint="give 1 or more, or None for whole maps")
        self.side = side
        self.relative = relative

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        wanted: dict[str, list[tuple[ChannelGroup, Tap]]] = {}
        for group in deps.groups:
            for tap in shared_taps(captured, group, criterion=self.name):
                wanted.setdefault(tap.node, []).append((group, tap))
        totals = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in deps.groups}
        counts = dict.fromkeys(totals, 0)

        def look(node: fx.Node, args: Sequence[Any], value: Any) -> None:
            for group, tap in wanted.get(node.name, ()):
                tensor = checked_value(value, node, self.name)
                totals[group.name] += self._of(tensor, tap, group.size).cpu()
                counts[group.name] += int(tensor.shape[0]) if tap.dim else 1

        with in_mode(captured.graph, training=False):
            watch_values(captured.graph, data, look, criterion=self.name)
        scores = {name: total / max(1, counts[name]) for name, total in totals.items()}
        for name, value in scores.items():
            warn_if_all_alike(value, name, self.name, "every feature map is zero")
        return scores

    def _of(self, value: torch.Tensor, tap: Tap, size: int) -> torch.Tensor:
        """Sum over the examples of one tensor, ``[size]``."""
        if self.side is not None and value.ndim == 4 and tap.dim == 1 and max(value.shape[2:]) > self.side:
            value = F.adaptive_avg_pool2d(
                value, (min(self.side, value.shape[2]), min(self.side, value.shape[3]))
            )
        rows = rows_of_units(value, tap.dim, tap.runs, size)
        total = torch.zeros(size, dtype=torch.float64, device=value.device)
        for part in rows.split(max(1, _CHUNK // (rows[0].numel() + size * min(size, rows.shape[2])))):
            found, norms = independence(part)
            if self.relative:
                found = found / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]
            total += found.sum(0)
        return total
