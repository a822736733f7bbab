"""An endless stream of batches whose position can be saved and found again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hwprune.errors import RepairError
from hwprune.repair.rng import RngState, loader_generators, rng_state, set_rng_state


def loader_length(loader: Iterable[Any]) -> int | None:
    """``len(loader)``, or ``None`` where it has none."""
    try:
        return len(loader)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


class BatchStream:
    """Runs through a loader again and again.

    A shuffling loader takes its order from the random state at the start of each pass, so a
    position is that state plus the number of batches drawn since.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.generators = loader_generators(loader)
        self.position = 0
        self.pass_rng: RngState = rng_state(self.generators)
        self._length = loader_length(loader)
        self._iterator: Iterator[Any] | None = None

    def next(self) -> Any:
        """The next batch.

        Raises
        ------
        RepairError
            A pass over the loader gives nothing.
        """
        if self._iterator is not None:
            try:
                return self._count(next(self._iterator))
            except StopIteration:
                self._end_pass()
        self.pass_rng = rng_state(self.generators)
        self._iterator = iter(self.loader)
        try:
            return self._count(next(self._iterator))
        except StopIteration:
            raise RepairError(
                "the training loader is empty, or cannot be iterated a second time",
                hint="pass a DataLoader or a list of batches with data, not a generator",
            ) from None

    def seek(self, pass_rng: RngState, position: int) -> None:
        """Go to a saved position. Leaves the random state as the pass has it; the caller sets its own."""
        self._end_pass()
        if position == 0:
            return
        set_rng_state(pass_rng, self.generators)
        for _ in range(position):
            self.next()

    def _count(self, batch: Any) -> Any:
        self.position += 1
        if self.position == self._length:
            # A finished pass needs no replay after a resume.
            self._end_pass()
        return batch

    def _end_pass(self) -> None:
        self._iterator = None
        self.position = 0
