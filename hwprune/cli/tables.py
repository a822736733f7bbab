"""Verbs about latency tables as files: table show, diff, verify, merge."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwprune.cli.common import Json, Tables, Threads, complain, emit, print_table, say
from hwprune.errors import TableError, UsageError
from hwprune.target import available, load_target

if TYPE_CHECKING:
    from hwprune.latency.diff import TableDiff
    from hwprune.latency.manifest import TableManifest
    from hwprune.latency.overview import Overview

#: Lines of a listing for people; ``--json`` lists everything.
_LISTED = 10

table = typer.Typer(help="Look at latency tables, compare, check and merge them.", no_args_is_help=True)

Place = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="Directory of a table, or a target: its table for this machine.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    table.command()(show)
    table.command()(diff)
    table.command()(verify)
    table.command()(merge)
    app.add_typer(table, name="table")


def show(place: Place, threads: Threads = None, tables: Tables = None, json: Json = False) -> None:
    """Show where a table comes from and what it holds."""
    from hwprune.latency.location import is_shipped
    from hwprune.latency.manifest import read_manifest
    from hwprune.latency.overview import overview
    from hwprune.latency.table import LatencyTable

    directory = find(place, threads, tables)
    loaded = LatencyTable.load(directory, unit=read_manifest(directory).unit)
    found = overview(loaded)
    shipped = is_shipped(directory)
    data: dict[str, Any] = {
        "table": str(directory),
        "shipped": shipped,
        **found.to_dict(),
        "manifest": loaded.manifest.model_dump(mode="json"),
    }
    emit(data, json, lambda: _show(directory, shipped, loaded.manifest, found))


def diff(
    first: Place,
    second: Place,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="Also compare rows timed while the machine was disturbed.")
    ] = False,
    threads: Threads = None,
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Compare two tables: kernels that one of them lacks, and how the times of the others differ."""
    from hwprune.latency.diff import diff as compare
    from hwprune.latency.manifest import read_manifest
    from hwprune.latency.table import LatencyTable

    places = [find(each, threads, tables) for each in (first, second)]
    one, two = (LatencyTable.load(each, unit=read_manifest(each).unit) for each in places)
    found = compare(one, two, untrusted=untrusted)
    data = {"first": str(places[0]), "second": str(places[1]), **found.to_dict()}
    emit(data, json, lambda: _diff(found))


def verify(place: Place, threads: Threads = None, tables: Tables = None, json: Json = False) -> None:
    """Check a table: checksums, order, units, every row against its spec, its sweep and its raw samples.

    Exit code 1 when anything is wrong.
    """
    from hwprune.latency.verify import verify as check

    found = check(find(place, threads, tables))
    data = {**vars(found), "good": found.good}

    def human() -> None:
        kept = f"{found.rows_with_samples} of them with raw samples"
        say(f"{found.directory}: {found.rows} rows, {kept}: {'good' if found.good else 'NOT GOOD'}")
        for remark in found.remarks:
            say(f"  {remark}")

    emit(data, json, human)
    if not found.good:
        for problem in found.problems:
            complain(f"  {problem}")
        raise TableError(
            f"table {found.directory} must not be relied on: {len(found.problems)} problems",
            hint="restore its files from a copy, or delete the directory and run hwprune profile again",
        )


def merge(
    first: Place,
    second: Place,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="A new directory, or one of the two: then it is replaced.")
    ],
    prefer: Annotated[
        str,
        typer.Option(
            help="Whose rows win among trusted ones: newest, first, second. First and second also decide"
            " where searches chose different forms of a kernel."
        ),
    ] = "newest",
    threads: Threads = None,
    tables: Tables = None,
    json: Json = False,
) -> None:
    """Put two tables of one pipeline, device, target, unit and kind together."""
    from hwprune.latency.merge import PREFERENCES
    from hwprune.measure.merging import merge_tables

    if prefer not in PREFERENCES:
        raise UsageError(f"unknown preference '{prefer}'", hint=f"use one of {', '.join(PREFERENCES)}")
    places = [find(each, threads, tables) for each in (first, second)]
    report = merge_tables(places[0], places[1], output, prefer=PREFERENCES[prefer])
    data = {"table": str(report.directory), **{k: v for k, v in vars(report).items() if k != "directory"}}

    def human() -> None:
        say(f"{report.rows} rows in {report.directory}, {report.records} of them with raw samples")
        for place, taken, left in zip(places, report.taken, report.left_out, strict=True):
            say(f"  {taken} from {place}, {left} of its rows left out")

    emit(data, json, human)


def find(place: str, threads: int | None, tables: Path | None) -> Path:
    """The directory that an argument names.

    Raises
    ------
    UsageError
        It is neither a directory nor a target.
    TargetError
        The target cannot be resolved.
    """
    if Path(place).is_dir():
        return Path(place)
    if place in available() or Path(place).suffix == ".toml":
        from hwprune.measure.toolchain import toolchain_directory

        return toolchain_directory(load_target(place, threads=threads), tables)
    raise UsageError(
        f"'{place}' is neither the directory of a table nor a target",
        hint=f"give a path, or one of {', '.join(available())}",
    )


def _show(directory: Path, shipped: bool, manifest: TableManifest, found: Overview) -> None:
    device = manifest.device
    caches = ", ".join(f"{k} {v}" for k, v in dict(device.get("caches") or {}).items())
    say(f"table {directory}" + (" (shipped)" if shipped else ""))
    lines = {
        "target": f"{manifest.target.get('name')}: {manifest.target_string}",
        "device": f"{device.get('cpu')}, {device.get('cores')} cores, {caches or 'caches unknown'}",
        "governor": str(device.get("governor") or "not told"),
        "system": manifest.system,
        "pipeline": f"{manifest.target.get('pipeline', '')} {manifest.pipeline}",
        "numbers": f"{manifest.provenance}, {manifest.unit}",
        "rows": f"{found.rows}: " + (", ".join(f"{n} {s}" for s, n in found.statuses.items()) or "none"),
        "timed": f"{found.oldest} to {found.newest}, {_age(found.newest)}" if found.newest else "never",
    }
    for word, row in (("narrowest", found.best), ("widest", found.worst)):
        if row is not None:
            width = (row.ci_high - row.ci_low) / row.median
            lines[f"{word} interval"] = f"{width:.2%} of {row.median:.6g} {row.unit}: {row.label}"
    for key, value in lines.items():
        say(f"  {key}: {value}")
    header = ("rows", "operators")
    print_table("families", header, [(n, name) for name, n in found.families.most_common(_LISTED)])
    if len(found.families) > _LISTED:
        say(f"and {len(found.families) - _LISTED} more families")
    _show_sweeps(manifest, found)
    for label, reason in list(found.failures.items())[:_LISTED]:
        say(f"failed: {label}: {reason}")


def _show_sweeps(manifest: TableManifest, found: Overview) -> None:
    rows: list[tuple[Any, ...]] = []
    for sweep in manifest.sweeps[-_LISTED:]:
        counts = found.sweeps.get(sweep.id)
        left = sum(vars(counts).values()) if counts else 0
        versions = ", ".join(f"{k} {v}" for k, v in sweep.versions.items() if v and k in ("tvm", "llvm"))
        profile = str(sweep.profile.get("name", ""))
        ended = sweep.ended or "cut off"
        drift = _drift(sweep.conditions)
        rows.append((left, sweep.id, sweep.started, ended, profile, drift, versions, sweep.git or ""))
    header = ("rows", "sweep", "started", "ended", "profile", "sentinel", "versions", "git")
    print_table(f"sweeps (the last of {len(manifest.sweeps)})", header, rows)
    if manifest.sweeps:
        say(f"last command: {manifest.latest.command}")


def _drift(conditions: Mapping[str, Any]) -> str:
    """How far the sentinel kernel was from its reference during a sweep: ``-1.2% to +3.4%``."""
    sentinel = conditions.get("sentinel")
    if not isinstance(sentinel, Mapping):
        return ""
    reference, ends = sentinel.get("reference_ns"), (sentinel.get("least_ns"), sentinel.get("most_ns"))
    if not reference or None in ends:
        return ""
    return " to ".join(f"{end / reference - 1:+.1%}" for end in ends)


def _diff(found: TableDiff) -> None:
    summary = found.summary()
    for each in found.different:
        say(f"the tables differ in {each}")
    say(f"only in the first: {summary['only_first']}, only in the second: {summary['only_second']}")
    left_out = [f"{summary[k]} {k.replace('_', ' ')}" for k in ("untrusted", "failed", "other_choice")]
    say(f"compared: {summary['compared']} kernels (left out: {', '.join(left_out)})")
    if not found.compared:
        return
    say(
        f"second over first, less one: median {summary['median']:+.2%}, 5th to 95th percentile"
        f" {summary['p5']:+.2%} to {summary['p95']:+.2%}, largest {summary['max_abs']:.2%}"
    )
    say(f"beyond both confidence intervals: {summary['beyond_both']} ({summary['beyond_both_share']:.0%})")
    largest = [
        (f"{d.relative:+.1%}", d.first, d.second, "yes" if d.beyond_both else "no", d.label)
        for d in found.largest(_LISTED)
    ]
    print_table("largest differences", ("change", "first", "second", "beyond both", "kernel"), largest)


def _age(then: str) -> str:
    days = (datetime.now(UTC) - datetime.fromisoformat(then)).days
    return "today" if days < 1 else f"{days} days ago"
