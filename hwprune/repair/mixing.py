"""Several data loaders as one, for instance labelled data mixed with unlabelled data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hwprune.errors import RepairError
from hwprune.importance.batches import Batch, split_batch


class MixedLoader:
    """Draws batches from several loaders in the proportion of their weights.

    The order is fixed (the loader that is furthest behind its share comes next), so it consumes no
    random numbers. A loader that ends is started again; an epoch ends when the first loader has
    been seen once.

    Parameters
    ----------
    loaders
        Loaders that can be iterated again and again.
    weights
        Shares of the batches; equal by default.
    unlabelled
        Per loader: drop its labels, so that its batches serve distillation only.

    Raises
    ------
    RepairError
        No loader, lists of different lengths, a weight that is not positive, or an empty loader.
    """

    def __init__(
        self,
        loaders: Sequence[Iterable[Any]],
        weights: Sequence[float] | None = None,
        unlabelled: Sequence[bool] | None = None,
    ) -> None:
        self.loaders = tuple(loaders)
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.loaders)
        self.unlabelled = tuple(unlabelled) if unlabelled is not None else (False,) * len(self.loaders)
        if not self.loaders or len({len(self.loaders), len(self.weights), len(self.unlabelled)}) != 1:
            raise RepairError(
                f"{len(self.loaders)} loaders, {len(self.weights)} weights and {len(self.unlabelled)} flags",
                hint="give one weight and one flag per loader, and one loader at least",
            )
        if min(self.weights) <= 0:
            raise RepairError(f"loader weights are {self.weights}", hint="every weight must be above 0")

    def __len__(self) -> int:
        lengths = getattr(self.loaders[0], "__len__", None)
        if lengths is None:
            raise TypeError("the first loader has no length")
        # Largest number of draws that has not yet asked the first loader for one batch too many.
        return sum(1 for _ in self._order(int(lengths())))

    def __iter__(self) -> Iterator[Any]:
        streams = [iter(loader) for loader in self.loaders]
        for which in self._order(None):
            try:
                batch = next(streams[which])
            except StopIteration:
                if which == 0:
                    return
                streams[which] = iter(self.loaders[which])
                try:
                    batch = next(streams[which])
                except StopIteration:
                    raise RepairError(
                        f"loader {which} of the mix is empty",
                        hint="loaders must be re-iterable (a DataLoader or a list, not a generator)",
                    ) from None
            if self.unlabelled[which]:
                split = split_batch(batch)
                batch = Batch(split.inputs, split.named, None)
            yield batch

    def _order(self, first_length: int | None) -> Iterator[int]:
        """Loader numbers in turn; stops before draw ``first_length + 1`` of the first loader."""
        drawn = [0] * len(self.loaders)
        while True:
            which = min(range(len(drawn)), key=lambda i: ((drawn[i] + 1) / self.weights[i], i))
            if which == 0 and first_length is not None and drawn[0] == first_length:
                return
            drawn[which] += 1
            yield which
