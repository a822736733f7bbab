"""Our CPU modules against ONNX Runtime, OpenVINO and TVM as it comes: fp32, batch 1, 224x224.

    python -m bench.cpu_codegen --models resnet18,mobilenet_v2 --threads 1,2 --search

Every row is one model at one thread count. Ours and the peers take turns in one interleaved run,
each in a process pinned to the same cores; ``ratio`` is the fastest peer's median over ours (above
1: ours is quicker). TVM's default pipeline, fifty times slower, is timed against ours alone in a
run of its own with few samples, and at one thread only, as its code is serial. The error is the
largest difference from PyTorch in float64, relative to the largest output, at the given and at
random aligned widths. Kernels are timed alone, with weights from memory, as for latency tables.

The result is written after each row; ``--resume`` goes on where a run was cut off, and measures
again what was made by other code.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.common import geomean, write_result
from bench.cpu_models import MODELS
from bench.cpu_row import Setting, one_row
from bench.fma_peak import fma_peak_gflops
from hwprune.compile import pipeline_hash
from hwprune.planner.workbench import measure_profile
from hwprune.target import Target, load_target, require_runnable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--target", default="host")
    parser.add_argument("--search", action="store_true", help="search tilings by measurement first")
    parser.add_argument("--no-kernels", action="store_true", help="do not time kernels one by one")
    parser.add_argument("--no-tvm-default", action="store_true")
    parser.add_argument("--profile", default="table", help="care of the comparison")
    parser.add_argument("--tables", type=Path, default=None, help="default: a new, empty directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu_codegen.json"))
    options = parser.parse_args()
    targets = [load_target(options.target, threads=int(n)) for n in options.threads.split(",")]
    for target in targets:
        require_runnable(target)
    rows = kept_rows(options, targets) if options.resume else []
    done = {(row["model"], row["threads"]) for row in rows}
    with tempfile.TemporaryDirectory(prefix="hwprune-cpu-codegen-") as scratch:
        place = Path(scratch)
        peak = fma_peak_gflops(load_target(options.target, threads=1))
        setting = Setting(
            options, measure_profile(options.profile), options.tables or place / "tables", place, peak
        )
        for target in targets:
            for name in options.models.split(","):
                if (name, target.threads) not in done:
                    rows.append(one_row(name, target, setting))
                    write_result(options.out, summary(rows, peak), rows, as_json=False, quiet=True)
    write_result(options.out, summary(rows, peak), rows, as_json=options.json)


def kept_rows(options: argparse.Namespace, targets: list[Target]) -> list[dict[str, Any]]:
    """Rows of an earlier run that the present code would make again."""
    if not options.out.is_file():
        return []
    current = [
        (target.threads, {"pipeline": pipeline_hash(target), "searched": options.search})
        for target in targets
    ]
    return [
        row
        for row in json.loads(options.out.read_text())["rows"]
        if row["error"] is None and (row["threads"], row["made_by"]) in current
    ]


def summary(rows: list[dict[str, Any]], peak: float) -> dict[str, Any]:
    """The figures that the README quotes; None where nothing was measured."""

    def ratios(key: str, threads: int) -> list[float]:
        return [r[key] for r in rows if r["threads"] == threads and r[key] is not None]

    def worst(*keys: str) -> float | None:
        return max((r[key] for r in rows for key in keys if r[key] is not None), default=None)

    def mean(values: list[float]) -> float | None:
        return geomean(values) if values else None

    return {
        "geomean_1t": mean(ratios("ratio", 1)),
        "min_1t": min(ratios("ratio", 1), default=None),
        "geomean_2t": mean(ratios("ratio", 2)),
        "min_2t": min(ratios("ratio", 2), default=None),
        "geomean_vs_ort_2t": mean(ratios("ratio_vs_ort", 2)),
        "min_vs_ort_2t": min(ratios("ratio_vs_ort", 2), default=None),
        "compile_s_max": worst("compile_s"),
        "search_s_max": worst("search_s"),
        "max_rel_error": worst("max_rel_error", "max_rel_error_pruned"),
        "fma_peak_gflops_1t": peak,
        "not_compiled": sorted({r["model"] for r in rows if r["error"] is not None}),
    }


if __name__ == "__main__":
    main()
