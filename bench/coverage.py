"""Every model of a zoo, half of its channels cut at random: exact, or declined with a reason.

    python -m bench.coverage --zoo torchvision --peer torch-pruning
    python -m bench.coverage --zoo timm --resume

One process per model, with a limit on time and memory; the result is kept after every model. Weights
are random but alive, inputs as small as the architecture allows (see the ``input`` column).

``exact``: verified against the masked original on three inputs, and a training step ran.
``declined``: nothing was cut, for the reason given. ``wrong``: the verification failed.
``failed``: anything else. ``not_exportable``: torch.export refuses the model.
``channels_prunable`` of ``channels`` could be cut (the model's outputs are not counted), and
``effect`` is how much the cut changes the outputs: where it is small, the verification sees little.
Seconds are of processor time, in a process that has worked on a tiny model before: imports do not count.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import multiprocessing
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from bench.common import torchvision_models, write_result
from bench.coverage_one import cover_model
from bench.coverage_peer import peer_model
from bench.coverage_zoo import names
from hwprune.artifact import atomic_write_text
from hwprune.capture import capture
from hwprune.dependency import analyse

#: A process may take this many times its processor time before it is taken for hung.
_PATIENCE = 6

Model = Callable[[str, str, int, float], dict[str, Any]]

#: Columns of the CSV file, in order.
COLUMNS = (
    "model",
    "status",
    "parameters",
    "parameters_after",
    "channels",
    "channels_prunable",
    "groups",
    "nodes",
    "form",
    "analyse_s",
    "cut_s",
    "prune_s",
    "total_s",
    "max_rel_error",
    "effect",
    "batch",
    "train",
    "input",
    "reason",
    "kept_because",
    "class_reason",
    "peer_status",
    "peer_s",
    "peer_parameters_after",
    "peer_reason",
)
PEER_STATUSES = ("exact", "wrong", "failed", "unjudged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--zoo", choices=("torchvision", "timm"), default="torchvision")
    parser.add_argument("--models", default=None, help="some of them, separated by commas")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out has")
    parser.add_argument("--again", default="", help="with --resume: statuses to run again, by commas")
    parser.add_argument("--peer", choices=("torch-pruning",), default=None)
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the channels to keep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds of processor time per model")
    parser.add_argument("--memory", type=float, default=6.0, help="GiB of address space per model")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    options.out = options.out or Path(f"bench/results/coverage_{options.zoo}.json")
    wanted = options.models.split(",") if options.models else list(names(options.zoo))
    unknown = sorted(set(wanted) - set(names(options.zoo)))
    if unknown:
        sys.exit(f"no such model in {options.zoo}: {', '.join(unknown)}")
    rows = kept_rows(options.out, options.again.split(",")) if options.resume else {}
    warm_up(options.zoo)
    for number, name in enumerate(wanted, 1):
        row = rows.get(name, {})
        if "status" not in row:
            row = {"model": name, **run_one(cover_model, name, options)}
        if options.peer and "peer_status" not in row:
            found = run_one(peer_model, name, options)
            row |= {f"peer_{key}": value for key, value in found.items()}
        rows[name] = row
        keep_result(options, rows, wanted)
        line = f"{number}/{len(wanted)} {name}: {row['status']} {row.get('reason', '')[:150]}"
        print(line, file=sys.stderr, flush=True)
    keep_result(options, rows, wanted, show=True)


def kept_rows(path: Path, again: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run by model, but for those whose status is to be run again."""
    if not path.exists():
        return {}
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return {row["model"]: row for row in rows if row["status"] not in again}


def keep_result(
    options: argparse.Namespace,
    rows: Mapping[str, dict[str, Any]],
    wanted: Sequence[str],
    *,
    show: bool = False,
) -> None:
    """Write JSON and CSV; rows of models that this run was not asked for stay."""
    order = [name for name in names(options.zoo) if name in rows]
    chosen = [rows[name] for name in order]
    write_result(options.out, summary(chosen), chosen, as_json=options.json, quiet=True)
    atomic_write_text(options.out.with_suffix(".csv"), as_csv(chosen))
    if not show:
        return
    if options.json:
        print(options.out.read_text())
        return
    for name in wanted:
        row = rows[name]
        print(f"{name:36} {row['status']:15} {row.get('peer_status', ''):9} {row.get('reason', '')[:120]}")
    for key, value in summary(chosen).items():
        print(f"{key}: {value}")
    print(f"written to {options.out}")


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV; numbers of seconds and errors are rounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = [row.get(column, "") for column in COLUMNS]
        writer.writerow(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in cells)
    return out.getvalue()


def run_one(model: Model, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one model in a process of its own; a crash or an overrun is a failed row."""
    context = multiprocessing.get_context("fork")  # torch is imported once
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model, name, options, writer))
    start = time.monotonic()
    process.start()
    writer.close()
    row: dict[str, Any] | None = None
    try:
        if reader.poll(_PATIENCE * options.timeout):
            row = reader.recv()
        else:
            process.kill()
    except EOFError:
        pass
    process.join()
    if row is None:
        row = {"status": "failed", "reason": _ending(process.exitcode or 0, options.timeout)}
    return {**row, "total_s": time.monotonic() - start}


def _ending(code: int, timeout: float) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"not done after {timeout:.0f} s"
    return f"the process ended with {f'signal {-code}' if code < 0 else f'code {code}'}"


def _child(model: Model, name: str, options: argparse.Namespace, writer: Connection) -> None:
    most = int(options.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(options.timeout), -1))
    try:
        row = model(options.zoo, name, options.seed, options.ratio)
    except Exception as error:
        row = {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    writer.send(row)


def warm_up(zoo: str) -> None:
    """Import everything and export something, so that no model pays for it."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torchvision_models()
    if zoo == "timm":
        import timm  # noqa: F401 - the processes to come have it
    captured = capture(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)), torch.randn(1, 3, 4, 4))
    analyse(captured)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by status, the slowest analysis, what could be cut, and the peer's counts."""
    count = {
        key: sum(row["status"] == key for row in rows)
        for key in ("exact", "declined", "wrong", "failed", "not_exportable")
    }
    share = {
        row["model"]: row["channels_prunable"] / row["channels"]
        for row in rows
        if row["status"] == "exact" and row.get("channels")
    }
    out: dict[str, Any] = {
        "models": len(rows),
        **count,
        "exact_share": count["exact"] / len(rows) if rows else None,
        "analyse_s_max": max((row.get("analyse_s") or 0.0 for row in rows), default=0.0),
        "class_kept": sum(row.get("form") == "class" for row in rows),
        "mean_share_prunable": sum(share.values()) / len(share) if share else None,
        "less_than_half_prunable": sorted(name for name, value in share.items() if value < 0.5),
        "fixed_batch": sorted(row["model"] for row in rows if str(row.get("batch", "any")) != "any"),
    }
    judged = [row for row in rows if "peer_status" in row]
    if judged:
        ours = [(row.get("analyse_s") or 0.0) + (row.get("cut_s") or 0.0) for row in judged]
        theirs = [row.get("peer_s") or 0.0 for row in judged]
        both = [(a, b) for a, b, row in zip(ours, theirs, judged, strict=True) if _both(row)]
        out |= {f"peer_{key}": sum(r["peer_status"] == key for r in judged) for key in PEER_STATUSES}
        out |= {
            "seconds": sum(ours),
            "peer_seconds": sum(theirs),
            "both_done": len(both),
            "seconds_both_done": sum(a for a, _ in both),
            "peer_seconds_both_done": sum(b for _, b in both),
            "faster_than_peer": sum(a < b for a, b in both),
        }
    return out


def _both(row: Mapping[str, Any]) -> bool:
    """Whether either tool got a model out, so that their times can be compared."""
    return row["status"] == "exact" and row["peer_status"] != "failed"


if __name__ == "__main__":
    main()
