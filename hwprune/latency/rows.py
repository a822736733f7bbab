"""Rows of a latency table, and how they look as text in ``table.csv`` and ``journal.csv``."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from hwprune.errors import TableError
from hwprune.latency.choice import DEFAULT
from hwprune.latency.kernel import KernelSpec

OK = "ok"
UNTRUSTED = "untrusted"
FAILED_PREFIX = "failed:"


@dataclass(frozen=True)
class Row:
    """One timed kernel.

    ``median``, ``ci_low``, ``ci_high``, ``minimum`` and ``mean`` are per kernel call, in ``unit``.
    ``status`` is ``"ok"``, ``"untrusted"`` (timed while the machine was disturbed) or
    ``"failed:<reason>"`` (the numbers are then zero). ``spec`` is the canonical text: parsing it is
    slow in bulk, so it waits until somebody asks for :attr:`kernel`. ``choice`` names the form that
    the kernel was built in; see :mod:`hwprune.latency.choice`.
    """

    digest: str
    label: str
    spec: str
    unit: str
    median: float
    ci_low: float
    ci_high: float
    minimum: float
    mean: float
    samples: int
    status: str
    copies: int
    measured_at: str
    choice: str = DEFAULT

    @property
    def kernel(self) -> KernelSpec:
        """The kernel this row is about."""
        return KernelSpec.parse(self.spec)

    @property
    def failure(self) -> str | None:
        """Why the kernel has no time, if it has none."""
        return self.status.removeprefix(FAILED_PREFIX) if self.status.startswith(FAILED_PREFIX) else None


COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(Row))


def one_line(text: str, limit: int = 300) -> str:
    """Text fit for a cell: a row must stay on one line, or a table cannot be compared by line."""
    return " ".join(text.split())[:limit]


def row_to_csv(row: Row) -> str:
    """One line without its end. Floats keep all their digits, so a round trip is exact."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(
        [repr(v) if isinstance(v, float) else v for v in (getattr(row, name) for name in COLUMNS)]
    )
    return buffer.getvalue()


def row_from_cells(cells: list[str], where: str) -> Row:
    """Inverse of :func:`row_to_csv` after the CSV reader.

    Raises
    ------
    TableError
        Naming the place, for a wrong number of cells or a number that is none.
    """
    if len(cells) != len(COLUMNS):
        raise TableError(
            f"{where}: {len(cells)} cells instead of {len(COLUMNS)}",
            hint="the file is damaged: delete the directory and profile again",
        )
    try:
        return Row(
            digest=cells[0],
            label=cells[1],
            spec=cells[2],
            unit=cells[3],
            median=float(cells[4]),
            ci_low=float(cells[5]),
            ci_high=float(cells[6]),
            minimum=float(cells[7]),
            mean=float(cells[8]),
            samples=int(cells[9]),
            status=cells[10],
            copies=int(cells[11]),
            measured_at=cells[12],
            choice=cells[13],
        )
    except ValueError as error:
        raise TableError(f"{where}: {error}", hint="the file is damaged: profile again") from error


def table_to_csv(rows: Iterable[Row]) -> str:
    """A whole ``table.csv``: header, then one line a row, sorted by digest."""
    lines = [",".join(COLUMNS), *(row_to_csv(row) for row in sorted(rows, key=lambda r: r.digest))]
    return "\n".join(lines) + "\n"


def table_from_csv(text: str, where: Path) -> list[Row]:
    """Rows of a ``table.csv`` in file order."""
    reader = csv.reader(io.StringIO(text))
    if tuple(next(reader, [])) != COLUMNS:
        raise TableError(f"{where}: unknown columns", hint="written by another version: profile again")
    return [row_from_cells(cells, f"{where} line {reader.line_num}") for cells in reader]


def journal_line(row: Row) -> bytes:
    """One journal line: CRC-32 of the rest as eight hex digits, a space, the row, a line end."""
    payload = row_to_csv(row).encode()
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def read_journal(data: bytes, where: Path) -> tuple[list[Row], int]:
    """Rows of a journal, and how many leading bytes are whole lines.

    A last line cut short (the writer was killed while writing it) is left out. A damaged line
    in the middle cannot come from that, so it is refused.

    Raises
    ------
    TableError
        Naming the line.
    """
    rows: list[Row] = []
    good = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        end = good + len(line) + 1
        torn = end > len(data)
        payload = line[9:]
        if torn or line[:9] != b"%08x " % zlib.crc32(payload):
            if end >= len(data):
                break
            raise TableError(
                f"{where} line {number} is damaged", hint="delete this file and profile again to fill the gap"
            )
        rows.append(row_from_cells(next(csv.reader([payload.decode()])), f"{where} line {number}"))
        good = end
    return rows, good
