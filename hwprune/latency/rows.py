"""Rows of a latency table, and how they look as text in ``table.csv`` and ``journal.csv``."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hwprune.errors import TableError
from hwprune.latency.choice import DEFAULT
from hwprune.latency.kernel import KernelSpec

OK = "ok"
UNTRUSTED = "untrusted"
FAILED_PREFIX = "failed:"
#: Sweep of a row that has not been written yet.
NO_SWEEP = "00000000"


@dataclass(frozen=True)
class Row:
    """One timed kernel.

    ``median``, ``ci_low``, ``ci_high``, ``minimum`` and ``mean`` are per kernel call, in ``unit``.
    ``status`` is ``"ok"``, ``"untrusted"`` (timed while the machine was disturbed) or
    ``"failed:<reason>"`` (the numbers are then zero). ``spec`` is the canonical text: parsing it is
    slow in bulk, so it waits until somebody asks for :attr:`kernel`. ``choice`` names the form that
    the kernel was built in; see :mod:`hwprune.latency.choice`. ``note`` is a remark for people: why
    a row is untrusted, which criterion was not met. ``sweep`` is the id of the sweep it was timed in
    (:class:`hwprune.latency.manifest.SweepRecord`); the table's writer fills it in.
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
    note: str = ""
    sweep: str = NO_SWEEP

    @property
    def kernel(self) -> KernelSpec:
        """The kernel this row is about."""
        return KernelSpec.parse(self.spec)

    @property
    def failure(self) -> str | None:
        """Why the kernel has no time, if it has none."""
        return self.status.removeprefix(FAILED_PREFIX) if self.status.startswith(FAILED_PREFIX) else None


#: Cells of fixed width come first: a large table is checked and searched without being parsed.
COLUMNS: tuple[str, ...] = (
    *("digest", "unit", "sweep", "choice", "status"),
    *("median", "ci_low", "ci_high", "minimum", "mean"),
    *("samples", "copies", "measured_at", "note", "label", "spec"),
)


def one_line(text: str, limit: int = 300) -> str:
    """Text fit for a cell: a row must stay on one line, or a table cannot be compared by line."""
    return " ".join(text.split())[:limit]


def row_to_csv(row: Row) -> str:
    """One line without its end. Floats keep all their digits, so a round trip is exact."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([_cell(getattr(row, name)) for name in COLUMNS])
    return buffer.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return repr(value)
    # Line ends in a remark would tear the line apart.
    return " ".join(value.splitlines()) if isinstance(value, str) and not value.isprintable() else value


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
    cell = dict(zip(COLUMNS, cells, strict=True))
    try:
        return Row(
            digest=cell["digest"],
            label=cell["label"],
            spec=cell["spec"],
            unit=cell["unit"],
            median=float(cell["median"]),
            ci_low=float(cell["ci_low"]),
            ci_high=float(cell["ci_high"]),
            minimum=float(cell["minimum"]),
            mean=float(cell["mean"]),
            samples=int(cell["samples"]),
            status=cell["status"],
            copies=int(cell["copies"]),
            measured_at=cell["measured_at"],
            choice=cell["choice"],
            note=cell["note"],
            sweep=cell["sweep"],
        )
    except ValueError as error:
        raise TableError(f"{where}: {error}", hint="the file is damaged: profile again") from error


def table_to_csv(rows: Iterable[Row]) -> str:
    """A whole small ``table.csv``: header, then one line a row, sorted by digest."""
    lines = [",".join(COLUMNS), *(row_to_csv(row) for row in sorted(rows, key=lambda r: r.digest))]
    return "\n".join(lines) + "\n"


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
