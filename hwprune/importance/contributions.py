"""Products of what units contribute to the outputs of the layers that read them."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies, Run
from hwprune.errors import CriterionError
from hwprune.importance.alternation import ReadSums
from hwprune.importance.batches import Batch
from hwprune.importance.gram import Gram, contribution_gram
from hwprune.importance.readers import Moment, Reader, by_unit, stream_readers
from hwprune.importance.rows import Positions, rows_of, spots_of
from hwprune.importance.units import unit_of_position

_log = logging.getLogger(__name__)

#: Above so many columns, products of a layer's inputs are not held (512 MiB in double precision); what is
#: contributed to a sample of the outputs is multiplied instead.
_COLUMNS = 8192
_OUTPUTS = 64
_ENTRIES = 1 << 24


@dataclass(frozen=True)
class Contributions:
    """What the units of each group contribute, over all layers that read it.

    Attributes
    ----------
    products
        Per group ``[size, size]``, float64: sum over readers, their outputs and sampled positions of
        ``z_u * z_v``, where ``z_u`` is what unit ``u`` adds to an output; every reader divided by
        the energy of its outputs about their means.
    fallback
        Scores of the groups that no convolution and no linear layer reads, see
        :func:`hwprune.importance.readers.stream_readers`.
    layers
        Per group what the layers that read it can be refitted from, if that was asked for.
    sampled
        Per group the part of ``products`` that is of other layers: those of which some outputs are
        looked at only.
    """

    products: dict[str, np.ndarray]
    fallback: dict[str, torch.Tensor]
    layers: dict[str, list[ReadSums]] = field(default_factory=dict[str, list[ReadSums]])
    sampled: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


def contributions(
    captured: Captured,
    deps: Dependencies,
    data: Iterable[Batch],
    positions: Positions,
    *,
    centred: bool,
    criterion: str,
    layers: bool = False,
) -> Contributions:
    """Stream data through the model and add up products of contributions.

    Parameters
    ----------
    captured, deps, data
        Model, groups, batches.
    positions
        At which positions of every reader's output.
    centred
        Products of deviations from the mean over positions (what an intercept leaves). Where
        nothing deviates (constant activations) the contributions themselves serve; this is logged.
    criterion
        Name for messages.
    layers
        Hand over what the readers can be refitted from, too. It takes as much memory again as the
        products of all that they read.

    Raises
    ------
    CriterionError
        Values are not finite, the model does not run on a batch, or a group has neither a reader nor
        a tap.
    """
    sums: dict[str, _Exact | _Sampled] = {}

    def visit(reader: Reader, now: Moment) -> None:
        name = reader.consumer.node
        if name not in sums:
            exact = reader.weight[0].numel() <= _COLUMNS
            sums[name] = _Exact(reader) if exact else _Sampled(reader, positions.seed)
        sums[name].add(now, positions)

    fallback = stream_readers(captured, deps, data, visit, criterion=criterion)
    products: dict[str, np.ndarray] = {}
    refits: dict[str, list[ReadSums]] = {}
    sampled: dict[str, np.ndarray] = {}
    for held in sums.values():
        about = centred
        found = held.products(centred)
        if centred and not any(bool(k.any()) for k in found):
            _log.warning("%s: what %s reads does not vary over the data", criterion, held.reader.node)
            about, found = False, held.products(centred=False)
        for (group, runs), own in zip(held.reader.parts, found, strict=True):
            products[group.name] = products.get(group.name, 0.0) + own / held.energy
            if isinstance(held, _Sampled):
                sampled[group.name] = sampled.get(group.name, 0.0) + own / held.energy
            elif layers:
                refits.setdefault(group.name, []).append(held.sums(runs, about))
    for name, own in products.items():
        if not own.any():
            _log.warning("%s: no unit of group %s contributes anything; all score alike", criterion, name)
        if not np.isfinite(own).all():
            raise CriterionError(
                f"criterion {criterion}: contributions of group {name} overflow",
                hint="look for very large values in the weights and the data",
            )
    return Contributions(products, fallback, refits, sampled)


class _Exact:
    """All outputs, from products of the inputs."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._gram = Gram()

    def add(self, now: Moment, positions: Positions) -> None:
        self._gram.add(
            rows_of(self.reader.consumer, self.reader.node, now.x, now.y, _draw(self.reader, now, positions))
        )

    @property
    def energy(self) -> float:
        return float(self._gram.centred()[2].sum()) or 1.0

    def products(self, centred: bool) -> list[np.ndarray]:
        """One matrix per group that the layer reads."""
        xx, xy = self._gram.centred()[:2] if centred else (self._gram.xx, self._gram.xy)
        zz, _ = contribution_gram(xx, xy, self.reader.weight, self.reader.consumer.kernel)
        return [_of_units(zz, runs, group.size) for group, runs in self.reader.parts]

    def sums(self, runs: tuple[Run, ...], centred: bool) -> ReadSums:
        """What is read of one group, and what is done with it."""
        kernel = self.reader.consumer.kernel
        xx = self._gram.centred()[0] if centred else self._gram.xx
        groups, wide, _ = xx.shape
        units = unit_of_position(runs, wide // kernel).repeat_interleave(kernel)
        own = (units >= 0).nonzero().flatten()
        weight = self.reader.weight.double().reshape(groups, -1, wide)[:, :, own.to(xx.device)]
        inner = xx[:, own][:, :, own]
        return ReadSums(inner.cpu().numpy(), weight.cpu().numpy(), units[own].numpy(), self.energy)


class _Sampled:
    """Some outputs, from what is contributed to them."""

    def __init__(self, reader: Reader, seed: int) -> None:
        self.reader = reader
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{reader.consumer.node}".encode()))
        count, groups = len(reader.weight), reader.consumer.groups
        # The same number of every convolution group.
        each = torch.randperm(count // groups, generator=generator)[: max(1, _OUTPUTS // groups)]
        self._chosen = (each + torch.arange(groups)[:, None] * (count // groups)).flatten()
        self._weight = reader.weight.flatten(1)[self._chosen].unflatten(0, (groups, len(each)))
        self._sums = [torch.zeros(len(self._chosen), g.size, dtype=torch.float64) for g, _ in reader.parts]
        self._squares = [torch.zeros(g.size, g.size, dtype=torch.float64) for g, _ in reader.parts]
        self._y = torch.zeros(2, len(self._chosen), dtype=torch.float64)
        self._count = 0

    def add(self, now: Moment, positions: Positions) -> None:
        consumer = self.reader.consumer
        rows = rows_of(consumer, self.reader.node, now.x, now.y, _draw(self.reader, now, positions))
        y = rows.y.flatten(1)[:, self._chosen].double().cpu()
        self._y += torch.stack([y.sum(0), y.square().sum(0)])
        self._count += len(rows)
        step = max(1, _ENTRIES // self._weight.numel())
        for start in range(0, len(rows), step):
            each = rows.x[start : start + step, :, None, :] * self._weight
            each = each.flatten(1, 2).unflatten(2, (-1, consumer.kernel)).sum(3)
            for at, (group, runs) in enumerate(self.reader.parts):
                z = by_unit(each, runs, group.size).double().cpu()
                self._sums[at] += z.sum(0)
                flat = z.flatten(0, 1)
                self._squares[at] += flat.T @ flat

    @property
    def energy(self) -> float:
        return float((self._y[1] - self._y[0].square() / self._count).clamp_min(0.0).sum()) or 1.0

    def products(self, centred: bool) -> list[np.ndarray]:
        """One matrix per group that the layer reads."""
        pairs = zip(self._squares, self._sums, strict=True)
        found = [k - s.T @ s / self._count if centred else k for k, s in pairs]
        return [k.numpy() for k in found]


def _draw(reader: Reader, now: Moment, positions: Positions) -> torch.Tensor:
    """Where to look at a reader's output, ``[rows, p]``."""
    rows = int(now.y.shape[0]) if now.y.ndim > 1 else 1
    spots = max(1, math.prod([spots_of(reader.consumer, now.y)]))
    return positions.draw(reader.consumer.node, now.batch, rows, spots, now.examples)


def _of_units(products: torch.Tensor, runs: Iterable[Run], size: int) -> np.ndarray:
    """From positions of the weight to units, on both sides."""
    runs = tuple(runs)
    return by_unit(by_unit(products, runs, size).T, runs, size).cpu().numpy()
