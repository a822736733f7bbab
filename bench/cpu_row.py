"""One row of :mod:`bench.cpu_codegen`: a model at one thread count, against its peers."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.cpu_models import float64_error, make, prune_randomly
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
from hwprune.target import Target

OURS, ORT, OPENVINO, TVM = "ours", "ort", "openvino", "tvm_default"
PEERS = (ORT, OPENVINO)
#: One run of the default pipeline takes up to half a minute.
SLOW = replace(QUICK, name="slow", rounds=2, samples_per_round=1, job_timeout_s=300.0)
#: Columns of a row; None where nothing was measured.
FIGURES = (
    "model", "threads", "ours_ms", "ort_ms", "openvino_ms", "tvm_default_ms", "ratio", "ratio_of_minima",
    "ratio_vs_ort", "ratio_vs_openvino", "ratio_vs_tvm_default", "compile_s", "search_s", "max_rel_error",
    "max_rel_error_pruned", "kernel_sum_over_ours", "fallback_share", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    options: argparse.Namespace
    profile: MeasureProfile
    tables: Path
    scratch: Path
    peak: float


def one_row(name: str, target: Target, setting: Setting) -> dict[str, Any]:
    """Everything about one model at one thread count; what fails is said in the row."""
    row: dict[str, Any] = dict.fromkeys(FIGURES)
    row |= {
        "model": name,
        "threads": target.threads,
        "made_by": {"pipeline": pipeline_hash(target), "searched": setting.options.search},
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
    if peers:
        least = {name: row["intervals_ms"][name]["minimum"] for name in (OURS, *PEERS) if row[f"{name}_ms"]}
        row["ratio"] = min(peers) / row["ours_ms"]
        row["ratio_of_minima"] = min(least[p] for p in PEERS if p in least) / least[OURS]


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
        row["intervals_ms"][standing.name] = {
            "low": s.ci_low / 1e6,
            "high": s.ci_high / 1e6,
            "minimum": s.minimum / 1e6,
        }
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
