"""The lines of a ``table.csv`` by kernel, parsed only when somebody asks for a row.

Parsing a million rows takes many seconds; finding the ends of a million lines does not. That is
enough once the file's checksum has shown that it holds what the table's writer wrote: sorted lines
whose first cells have a fixed width (:data:`hwprune.latency.rows.COLUMNS`).
"""

from __future__ import annotations

import csv
import itertools
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from hwprune.errors import TableError
from hwprune.latency.choice import DEFAULT, ChoiceTable
from hwprune.latency.rows import COLUMNS, Row, row_from_cells

#: Files beyond this size are mapped into memory, not read.
MAPPED_BYTES = 64 * 2**20
_BLOCK = 16 * 2**20
_DIGEST, _SWEEP = 16, 8

Buffer = bytes | mmap.mmap


def read_buffer(path: Path) -> Buffer:
    """A file's bytes; the pages of a large file are only fetched where they are looked at.

    Raises
    ------
    OSError
        It cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size <= MAPPED_BYTES:
            return file.read()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Lines:
    """Lines of a table, in the order of their digests.

    Parameters
    ----------
    data
        The whole file, its checksum verified.
    where
        Its path, for messages.
    unit
        The unit of the table.

    Raises
    ------
    TableError
        Unknown columns, a row in another unit, a kernel that is there twice, lines that are cut
        short or not in order.
    """

    def __init__(self, data: Buffer, where: Path, unit: str) -> None:
        self.data, self.where = data, where
        header = ",".join(COLUMNS).encode() + b"\n"
        if data[: len(header)] != header:
            raise TableError(f"{where}: unknown columns", hint="written by another version: profile again")
        self._bytes = np.frombuffer(data, dtype=np.uint8)
        ends = _line_ends(self._bytes)
        if int(ends[-1]) != len(data) - 1:
            raise TableError(f"{where}: the last line is cut short", hint="profile again")
        self._starts, self._ends = ends[:-1] + 1, ends[1:]
        self._place_of_choice = _DIGEST + 1 + len(unit) + 1 + _SWEEP + 1
        self.digests = self._cells(0, _DIGEST)
        self._check(unit)

    def __len__(self) -> int:
        return len(self._starts)

    def find(self, digest: str) -> int | None:
        """Place of a kernel's line, if it has one."""
        key = np.bytes_(digest.encode())
        place = int(np.searchsorted(self.digests, key))
        return place if place < len(self) and self.digests[place] == key else None

    def text(self, place: int) -> bytes:
        """A line without its end."""
        return bytes(self.data[int(self._starts[place]) : int(self._ends[place])])

    def row(self, place: int) -> Row:
        """A line as a row.

        Raises
        ------
        TableError
            It is malformed, which the checksum excludes for a file written by hwprune.
        """
        try:
            (cells,) = csv.reader([self.text(place).decode()], strict=True)
            return row_from_cells(cells, str(self.where))
        except (UnicodeDecodeError, ValueError, csv.Error) as error:
            raise TableError(f"{self._where(place)}: {error}", hint="profile again") from error
        except TableError as error:  # which line it is takes a while to find out
            message = error.message.replace(str(self.where), self._where(place), 1)
            raise TableError(message, hint=error.hint) from error

    def sweeps(self) -> set[str]:
        """Ids of all sweeps that the lines name."""
        first = self._place_of_choice - _SWEEP - 1
        return {bytes(sweep).decode() for sweep in np.unique(self._cells(first, _SWEEP))}

    def without(self, digests: Iterable[str]) -> Lines:
        """The lines of all other kernels."""
        places = [place for place in map(self.find, digests) if place is not None]
        if not places:
            return self
        keep = np.ones(len(self), dtype=bool)
        keep[places] = False
        return self._only(keep)

    def current(self, choices: ChoiceTable) -> Lines:
        """The lines of kernels that were timed in the form they are built in now."""
        default = f"{DEFAULT},".encode()
        keep = self._cells(self._place_of_choice, len(default)) == default
        for digest, entry in choices:
            if entry.choice is not None:
                place = self.find(digest)
                if place is not None:
                    keep[place] = self.row(place).choice == entry.choice.label()
        return self if keep.all() else self._only(keep)

    def runs(self, breaks: Iterable[str]) -> Iterator[bytes]:
        """All lines as pieces of the file; between two pieces are the places of ``breaks``.

        ``breaks`` are the digests, ascending, of lines that a writer puts in between; one more piece
        than breaks is given, and pieces may be empty.
        """
        places = [int(np.searchsorted(self.digests, np.bytes_(digest.encode()))) for digest in breaks]
        for first, last in zip([0, *places], [*places, len(self)], strict=True):
            yield b"".join(self._pieces(first, last))

    def _pieces(self, first: int, last: int) -> Iterator[bytes]:
        """Lines ``first`` to ``last`` with as few copies as they are contiguous in the file."""
        if first == last:
            return
        gaps = np.flatnonzero(self._starts[first + 1 : last] != self._ends[first : last - 1] + 1) + first + 1
        edges = [first, *gaps.tolist(), last]
        for begin, end in itertools.pairwise(edges):
            yield bytes(self.data[int(self._starts[begin]) : int(self._ends[end - 1]) + 1])

    def _only(self, keep: np.ndarray) -> Lines:
        other = object.__new__(Lines)
        other.__dict__.update(self.__dict__)
        other._starts, other._ends, other.digests = self._starts[keep], self._ends[keep], self.digests[keep]
        return other

    def _cells(self, offset: int, width: int) -> np.ndarray:
        """``width`` bytes of every line from ``offset`` on; of a shorter line, what follows it."""
        if not len(self):
            return np.empty(0, dtype=f"S{width}")
        windows = np.lib.stride_tricks.sliding_window_view(self._bytes, width)
        places = np.minimum(self._starts + offset, len(windows) - 1)
        return np.ascontiguousarray(windows[places]).view(f"S{width}").ravel()

    def _check(self, unit: str) -> None:
        """Refuse what a writer never writes: the checksum may have been forged, or we have a bug."""
        after = self._cells(_DIGEST, len(unit) + 2)
        wrong = np.flatnonzero(after != f",{unit},".encode())
        if len(wrong):
            row = self.row(int(wrong[0]))
            raise TableError(
                f"table {self.where.parent} mixes units: kernel '{row.label}' is in {row.unit}, "
                f"the table in {unit}",
                hint="measure in separate directories",
            )
        commas = self._cells(self._place_of_choice - 1, 1) != b","
        if commas.any():
            where = self._where(int(np.flatnonzero(commas)[0]))
            raise TableError(f"{where} is malformed", hint="the file is damaged: profile again")
        later, earlier = self.digests[1:], self.digests[:-1]
        unsorted = np.flatnonzero(later <= earlier)
        if len(unsorted):
            place = int(unsorted[0])
            row = self.row(place)
            if later[place] == earlier[place]:
                why = f"has kernel {row.digest} ({row.label}) twice"
            else:
                why = f"is not sorted after kernel {row.digest}"
            raise TableError(f"{self.where} {why}", hint="profile again")

    def _where(self, place: int) -> str:
        number = int(np.count_nonzero(self._bytes[: int(self._starts[place])] == ord("\n"))) + 1
        return f"{self.where} line {number}"


def _line_ends(data: np.ndarray) -> np.ndarray:
    """Places of all line ends, looked for in blocks: the comparison of a whole file takes as much memory."""
    found = [
        np.flatnonzero(data[start : start + _BLOCK] == ord("\n")) + start
        for start in range(0, len(data), _BLOCK)
    ]
    return np.concatenate(found)
