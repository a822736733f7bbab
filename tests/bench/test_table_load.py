"""The tables that the benchmark loads are tables as a writer leaves them."""

from __future__ import annotations

from pathlib import Path

from bench.table_load import in_a_process, opened, write_table
from hwprune.latency.table import LatencyTable
from hwprune.latency.verify import verify


def test_made_up_tables_verify(tmp_path: Path):
    place = write_table(tmp_path, 300, seed=1)
    found = verify(place)
    assert (found.problems, found.rows) == ([], 300)
    statuses = [row.status for row in LatencyTable.load(place)]
    assert 0 < statuses.count("untrusted") < 60


def test_opening_reports_what_it_took(tmp_path: Path):
    place = write_table(tmp_path, 300, seed=1)
    assert opened(place, 0, everything=False)["read_all_s"] == 0.0
    figures = in_a_process(place, 0, everything=True)
    assert all(figures[name] > 0 for name in ("load_s", "load_cpu_s", "lookup_us", "read_all_s"))
