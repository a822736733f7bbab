"""How long a latency table takes to load: tables of made-up rows, up to a million, in turns.

``python -m bench.table_load`` writes tables of several sizes into a temporary directory, then opens
them in turns, each time in a fresh process: load the table (checksum, order, units, choices), look up
kernels, and, for comparison, read every row. Times are medians over the rounds, of warm files;
``load_cpu_s`` is the processor time of loading, which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.common import write_result
from hwprune.artifact import atomic_write_chunks, sha256_file, write_json
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.manifest import (
    MANIFEST_KIND,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    SweepRecord,
    TableManifest,
)
from hwprune.latency.rows import Row, row_to_csv, table_to_csv
from hwprune.latency.table import CSV_NAME, LatencyTable

RESULT = Path(__file__).parent / "results" / "table_load.json"
SIZES = (10_000, 100_000, 1_000_000)
LOOKUPS = 1000
#: Share of rows that nobody can rely on, as in a table from a busy machine.
UNTRUSTED_SHARE = 0.03


def main() -> None:
    """Command line: ``--rows``, ``--rounds``, ``--seed``, ``--out``, ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES), help="sizes of the tables")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--all", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open is not None:
        print(json.dumps(opened(given.open, given.seed, everything=given.all)))
        return
    with tempfile.TemporaryDirectory(prefix="hwprune-table-load-") as scratch:
        rows = run(Path(scratch), sorted(given.rows), given.rounds, given.seed)
    largest = rows[-1]
    summary = {
        "rows": largest["rows"],
        "load_s": largest["load_s"],
        "load_s_worst": largest["load_s_worst"],
        "load_cpu_s": largest["load_cpu_s"],
        "lookup_us": largest["lookup_us"],
        "read_all_s": largest["read_all_s"],
        "memory_mib": largest["memory_mib"],
        "file_mib": largest["file_mib"],
        "rounds": given.rounds,
    }
    write_result(given.out, summary, rows, as_json=given.as_json)


def run(scratch: Path, sizes: list[int], rounds: int, seed: int) -> list[dict[str, Any]]:
    """Tables of all sizes, opened in turns so that a disturbance meets every size alike."""
    places: dict[int, Path] = {}
    for size in sizes:
        print(f"writing {size} rows", file=sys.stderr)
        places[size] = write_table(scratch / str(size), size, seed)
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for number in range(rounds):
        for size, place in places.items():
            print(f"round {number + 1} of {rounds}: {size} rows", file=sys.stderr)
            found[size].append(in_a_process(place, seed + number, everything=number == 0))
    return [
        {
            "rows": size,
            "load_s": statistics.median(f["load_s"] for f in found[size]),
            "load_s_worst": max(f["load_s"] for f in found[size]),
            "load_cpu_s": statistics.median(f["load_cpu_s"] for f in found[size]),
            "lookup_us": statistics.median(f["lookup_us"] for f in found[size]),
            "read_all_s": found[size][0]["read_all_s"],
            "memory_mib": statistics.median(f["memory_mib"] for f in found[size][1:] or found[size]),
            "file_mib": (places[size] / CSV_NAME).stat().st_size / 2**20,
        }
        for size in sizes
    ]


def in_a_process(place: Path, seed: int, *, everything: bool) -> dict[str, float]:
    """:func:`opened` in a fresh interpreter."""
    command = [sys.executable, "-m", "bench.table_load", "--open", str(place), "--seed", str(seed)]
    done = subprocess.run(
        [*command, *(["--all"] if everything else [])], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def opened(place: Path, seed: int, *, everything: bool) -> dict[str, float]:
    """Seconds to load a table, microseconds a first lookup, MiB of memory that are not the file's.

    Lookups are of digests: what a spec's digest costs has nothing to do with the table.
    """
    (place / CSV_NAME).read_bytes()
    before = _private_mib()
    start, cpu_start = time.perf_counter(), time.process_time()
    table = LatencyTable.load(place)
    load_s, load_cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    assert table.lines is not None
    wanted = [d.decode() for d in random.Random(seed).choices(table.lines.digests.tolist(), k=LOOKUPS)]
    memory = _private_mib() - before
    start = time.perf_counter()
    rows = [table.by_digest(digest) for digest in wanted]
    lookup_s = time.perf_counter() - start
    if [row and row.digest for row in rows] != wanted:
        raise AssertionError("the table does not give back what was written")
    read_all_s = 0.0
    if everything:
        start = time.perf_counter()
        count = sum(1 for _ in table)
        read_all_s = time.perf_counter() - start
        assert count == len(table)
    return {
        "load_s": load_s,
        "load_cpu_s": load_cpu_s,
        "lookup_us": 1e6 * lookup_s / LOOKUPS,
        "read_all_s": read_all_s,
        "memory_mib": memory,
    }


def _private_mib() -> float:
    """Resident memory that is not backed by a file (Linux), in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def write_table(place: Path, size: int, seed: int) -> Path:
    """A table of ``size`` different convolutions, as a writer would leave it."""
    lines = sorted(csv_lines(size, seed))
    chunks = (b"".join(lines[i : i + 10_000]) for i in range(0, size, 10_000))
    atomic_write_chunks(place / CSV_NAME, [table_to_csv([]).encode(), *chunks])
    sweep = SweepRecord(
        id="5eed5eed", command="", git=None, versions={}, seed=seed, profile={}, started="", ended=""
    )
    manifest = TableManifest(
        target={"name": "made-up"},
        target_string="",
        device={"slug": "made-up"},
        system="",
        pipeline="0123456789ab",
        unit="ns",
        provenance="measured",
        created="",
        updated="",
        sweeps=(sweep,),
        sha256=sha256_file(place / CSV_NAME),
    )
    write_json(place / MANIFEST_NAME, MANIFEST_KIND, MANIFEST_VERSION, manifest.model_dump(mode="json"))
    return place


def csv_lines(size: int, seed: int) -> Iterator[bytes]:
    """Lines of a table: a real row's line with the numbers that differ filled in."""
    generator = random.Random(seed)
    pattern = row_to_csv(_row("0" * 16, "LABEL", "SPEC", 11111.25, "ok"))
    assert pattern.count("11111.25") == 5
    pattern = pattern.replace("SPEC", "{spec}").replace("LABEL", "{label}").replace("0" * 16, "{digest}")
    pattern = pattern.replace("11111.25", "{:.6f}").replace(",ok,", ",{status},") + "\n"
    for number in range(size):
        o, i, edge = 8 + number % 1000, 8 + number // 1000 % 1000, 7 + number // 1_000_000
        spec = (
            f'{{"inputs":[[[1,{i},{edge},{edge}],"data","float32"],[[{o},{i},3,3],"weight","float32"],'
            f'[[{o}],"weight","float32"]],"ops":[["conv2d",[0,1,2],{{"dilation":[1,1],"groups":1,'
            '"padding":[1,1,1,1],"stride":[1,1]}],["relu",[3],{}]],"plain_output":false}'
        )
        digest = hashlib.sha256(spec.encode()).hexdigest()[:16]
        if number % 50_000 == 0:
            parsed = KernelSpec.parse(spec)
            assert parsed.canonical() == spec and parsed.digest() == digest
        median = generator.uniform(1e3, 1e6)
        numbers = [median, 0.99 * median, 1.01 * median, 0.98 * median, 1.002 * median]
        yield pattern.format(
            *numbers,
            digest=digest,
            label=f"conv2d+relu 1x{i}x{edge}x{edge} w{o}x{i}x3x3",
            spec='"' + spec.replace('"', '""') + '"',
            status="untrusted" if generator.random() < UNTRUSTED_SHARE else "ok",
        ).encode()


def _row(digest: str, label: str, spec: str, median: float, status: str) -> Row:
    return Row(
        digest=digest,
        label=label,
        spec=spec,
        unit="ns",
        median=median,
        ci_low=median,
        ci_high=median,
        minimum=median,
        mean=median,
        samples=50,
        status=status,
        copies=8,
        measured_at="2026-01-01T00:00:00+00:00",
        sweep="5eed5eed",
    )


if __name__ == "__main__":
    main()
