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
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.common import geomean, write_result
from bench.cpu_models import MODELS, float64_error, make, prune_randomly
from bench.fma_peak import fma_peak_gflops
from hwprune.capture import capture
from hwprune.compile import CompiledModule, compile_program, pipeline_hash
from hwprune.compile.listing import fallback_share, list_kernels
from hwprune.compile.pipeline import TVM_DEFAULT
from hwprune.delivery import compile_model
from hwprune.errors import HwpruneError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.fusion import fuse
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.compare import Comparison, compare
from hwprune.measure.contenders import Contender, bundle_contender, onnx_contender, openvino_contender
from hwprune.measure.export import onnx_export
from hwprune.measure.profile import profile as profile_kernels
from hwprune.measure.search import search
from hwprune.measure.stopping import QUICK, MeasureProfile
from hwprune.planner.workbench import measure_profile
from hwprune.target import Target, load_target, require_runnable

OURS, ORT, OPENVINO, TVM = "ours", "ort", "openvino", "tvm_default"
PEERS = (ORT, OPENVINO)
#: One run of the default pipeline takes up to half a minute.
SLOW = replace(QUICK, name="slow", rounds=2, samples_per_round=1, job_timeout_s=300.0)


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    options: argparse.Namespace
    profile: MeasureProfile
    tables: Path
    scratch: Path
    peak: float


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
    current = {(target.threads, pipeline_hash(target), options.search) for target in targets}
    return [
        row
        for row in json.loads(options.out.read_text())["rows"]
        if row["error"] is None and (row["threads"], row["pipeline"], row["searched"]) in current
    ]


def one_row(name: str, target: Target, setting: Setting) -> dict[str, Any]:
    """Everything about one model at one thread count; what fails is said in the row."""
    row: dict[str, Any] = dict.fromkeys(
        ("model", "threads", "ours_ms", "ort_ms", "openvino_ms", "tvm_default_ms", "ratio", "ratio_vs_ort",
         "ratio_vs_openvino", "ratio_vs_tvm_default", "compile_s", "search_s", "max_rel_error",
         "max_rel_error_pruned", "error")
    )  # fmt: skip
    row |= {
        "model": name,
        "threads": target.threads,
        "searched": setting.options.search,
        "pipeline": pipeline_hash(target),
        "intervals_ms": {},
        "absent": {},
        "warnings": [],
        "kernels": [],
    }
    say(row, "make")
    model, inputs = make(name, setting.options.seed)
    try:
        ours = compile_ours(model, inputs, target, setting, row)
    except Exception as error:  # also what TVM raises on its own: the other models go on
        row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        say(row, row["error"])
        return row
    ours.save(setting.scratch / "ours", {})
    say(row, "compare")
    main_run(model, inputs, target, setting, row)
    if target.threads == 1 and not setting.options.no_tvm_default:
        say(row, "TVM's default pipeline")
        slow_run(model, inputs, target, setting, row)
    if not setting.options.no_kernels:
        say(row, "kernels")
        add_kernels(fuse(capture(model, inputs).graph).program(), target, setting, row)
    return row


def say(row: dict[str, Any], what: str) -> None:
    print(f"{row['model']} at {row['threads']} thread(s): {what}", file=sys.stderr, flush=True)


def table_place(target: Target, setting: Setting) -> Path:
    return setting.tables / f"{target.name}-{pipeline_hash(target)}-t{target.threads}"


def compile_ours(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], target: Target, setting: Setting, row: dict[str, Any]
) -> CompiledModule:
    """Search if asked, compile, and check the given and the randomly pruned network."""
    place, arrays = table_place(target, setting), [x.numpy() for x in inputs]
    if setting.options.search:
        say(row, "search")
        specs = [step.spec for step in fuse(capture(model, inputs).graph).program().steps]
        begin = time.monotonic()
        search(specs, target, place, seed=setting.options.seed)
        row["search_s"] = time.monotonic() - begin
    say(row, "compile")
    begin = time.monotonic()
    program = fuse(capture(model, inputs).graph).program()
    module = compile_program(program, target, ChoiceTable.load(place))
    row["compile_s"] = time.monotonic() - begin
    row["max_rel_error"] = float64_error(model, inputs, module.run(*arrays))
    say(row, "check at random widths")
    smaller = prune_randomly(model, inputs, target, setting.options.seed)
    if smaller is None:
        row["warnings"].append("no channel can be pruned: checked at the given widths only")
    else:
        cut = compile_program(fuse(capture(smaller, inputs).graph).program(), target, ChoiceTable.load(place))
        row["max_rel_error_pruned"] = float64_error(smaller, inputs, cut.run(*arrays))
    return module


def main_run(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], target: Target, setting: Setting, row: dict[str, Any]
) -> None:
    """Ours and the peers, interleaved."""
    contenders: dict[str, Contender] = {OURS: bundle_contender(setting.scratch / "ours")}
    try:
        path = onnx_export(model, inputs, setting.scratch / "model.onnx")
    except HwpruneError as error:
        row["absent"] |= dict.fromkeys(PEERS, error.message)
    else:
        for peer, make_contender in ((ORT, onnx_contender), (OPENVINO, openvino_contender)):
            try:
                contenders[peer] = make_contender(path)
            except HwpruneError as error:
                row["absent"][peer] = str(error)
    take(row, run(contenders, inputs, target, setting.profile, setting))
    peers = [row[f"{peer}_ms"] for peer in PEERS if row[f"{peer}_ms"]]
    row["ratio"] = min(peers) / row["ours_ms"] if peers else None


def slow_run(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], target: Target, setting: Setting, row: dict[str, Any]
) -> None:
    """TVM as it comes against ours; the times of ours in this run are not kept."""
    try:
        module, _ = compile_model(model, inputs, target.model_copy(update={"pipeline": TVM_DEFAULT}))
        module.save(setting.scratch / "default", {})
    except HwpruneError as error:
        row["absent"][TVM] = error.message
        return
    contenders = {
        name: bundle_contender(setting.scratch / d) for name, d in ((OURS, "ours"), (TVM, "default"))
    }
    found = run(contenders, inputs, target, SLOW, setting)
    ours = found[OURS].summary.median / 1e6
    take(row, replace(found, standings=tuple(s for s in found.standings if s.name == TVM)), ours)


def run(
    contenders: dict[str, Contender],
    inputs: tuple[torch.Tensor, ...],
    target: Target,
    profile: MeasureProfile,
    setting: Setting,
) -> Comparison:
    return compare(
        contenders,
        [x.numpy() for x in inputs],
        threads=target.threads,
        profile=profile,
        seed=setting.options.seed,
        reference=OURS,
    )


def take(row: dict[str, Any], found: Comparison, ours_ms: float | None = None) -> None:
    """Medians, intervals and ratios of a comparison into a row."""
    for standing in found.standings:
        s = standing.summary
        row[f"{standing.name}_ms"] = s.median / 1e6
        row["intervals_ms"][standing.name] = [s.ci_low / 1e6, s.ci_high / 1e6, s.minimum / 1e6]
        if standing.name != OURS:
            row[f"ratio_vs_{standing.name}"] = s.median / 1e6 / (ours_ms or row["ours_ms"])
    row["absent"] |= found.failed
    row["warnings"] += found.warnings


def add_kernels(program: Program, target: Target, setting: Setting, row: dict[str, Any]) -> None:
    """Time the kernels of the network one by one, and say by which rule each was made."""
    place = table_place(target, setting)
    profile_kernels([s.spec for s in program.steps], target, place, profile=QUICK, seed=setting.options.seed)
    table = LatencyTable.load(place, pipeline=pipeline_hash(target))
    times = {r.digest: r.median for r in table if r.failure is None}
    lines = list_kernels([(s.name, s.spec) for s in program.steps], target, times, ChoiceTable.load(place))
    peak = setting.peak * target.threads
    row["kernels"] = [
        {
            "name": line.name,
            "label": line.label,
            **line.figures(),
            "of_peak": None if line.gflop_per_s is None else line.gflop_per_s / peak,
        }
        for line in lines
    ]
    row["fallback_share"] = fallback_share(lines)
    row["kernel_sum_over_ours"] = sum(line.us or 0.0 for line in lines) / 1e3 / row["ours_ms"]


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
