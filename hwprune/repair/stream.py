"""An endless stream of batches whose position can be saved and found again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hwprune.errors import RepairError
from hwprune.repair.rng import RngState, loader_generators, rng_state, set_generators, set_rng_state


def loader_length(loader: Iterable[Any]) -> int | None:
    """``len(loader)``, or ``None`` where it has none."""
    try:
        return len(loader)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


class BatchStream:
    """Runs through a loader again and again, with random states of its own.

    A position is the random state at the start of a pass plus the number of batches drawn since.
    The loader draws from the global generators, but from states that the stream puts in place for
    the time of a draw: so the order and the augmentation do not depend on what the model draws in
    between (dropout), and replaying a pass gives the same batches however lazily the loader works.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.position = 0
        self.pass_rng: RngState = rng_state(cuda=False)
        self._generators = loader_generators(loader)
        self._rng = self.pass_rng
        self._length = loader_length(loader)
        self._iterator: Iterator[Any] | None = None

    def start(self) -> None:
        """Begin with the random state of now."""
        self._rng = rng_state(self._generators, cuda=False)
        self._iterator, self.position, self.pass_rng = None, 0, self._rng

    def seek(self, pass_rng: RngState, position: int) -> None:
        """Go to a saved position; draws (and drops) the batches before it."""
        set_generators(pass_rng, self._generators)
        self._rng = pass_rng
        self._iterator, self.position, self.pass_rng = None, 0, pass_rng
        for _ in range(position):
            self.next()

    def next(self) -> Any:
        """The next batch.

        Raises
        ------
        RepairError
            A pass over the loader gives nothing.
        """
        outer = rng_state(cuda=False)
        set_rng_state(self._rng)
        try:
            batch = self._draw()
            if self.position == self._length:
                # A finished pass needs no replay after a resume.
                self._end_pass()
            self._rng = rng_state(cuda=False)
        finally:
            set_rng_state(outer)
        return batch

    def _draw(self) -> Any:
        if self._iterator is not None:
            try:
                batch = next(self._iterator)
                self.position += 1
                return batch
            except StopIteration:
                self._end_pass()
        self._iterator = iter(self.loader)
        try:
            batch = next(self._iterator)
        except StopIteration:
            raise RepairError(
                "the training loader is empty, or cannot be iterated a second time",
                hint="pass a DataLoader or a list of batches with data, not a generator",
            ) from None
        self.position += 1
        return batch

    def _end_pass(self) -> None:
        self._iterator, self.position = None, 0
        self.pass_rng = rng_state(self._generators, cuda=False)
