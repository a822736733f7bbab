"""The quickstart: train, plan, prune, repair, compile, benchmark, report."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from hwprune import api
from hwprune.artifact import atomic_write_bytes, atomic_write_text
from hwprune.benchmark import PRUNED, bench_bundle, comparison_data
from hwprune.delivery import compile_model
from hwprune.errors import ArtifactError
from hwprune.measure.compare import Comparison
from hwprune.planner.workbench import Progress, measure_profile
from hwprune.quickstart.digits import Batches, batches, load_digits_split
from hwprune.quickstart.network import DigitsNet
from hwprune.repair import FinetuneOptions, evaluate_accuracy, finetune
from hwprune.report import collect
from hwprune.report.data import Accuracy, Measurement, ReportData
from hwprune.report.page import write_report
from hwprune.target import Target

DATASET = "scikit-learn digits, 360 test images"
#: A relative budget is judged side by side with the dense model, this far above it at most.
MET = 1.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuickstartResult:
    """What the quickstart found; the keys of its JSON output.

    Latencies are medians of one interleaved run; ``budget_ms`` is the asked share of
    ``latency_dense_ms`` in that run, ``predicted_ms`` the plan's prediction on the same footing.
    """

    accuracy_dense: float
    accuracy_pruned: float
    latency_dense_ms: float
    latency_pruned_ms: float
    budget_ms: float
    predicted_ms: float
    max_rel_error: float
    seconds: float
    report: str

    @property
    def met(self) -> bool:
        return self.latency_pruned_ms <= MET * self.budget_ms

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def quickstart(
    directory: Path,
    target: Target,
    *,
    share: float = 0.5,
    epochs: int = 8,
    finetune_epochs: int = 1,
    profile: str = "quick",
    tables: Path | None = None,
    seed: int = 0,
    progress: Progress,
) -> QuickstartResult:
    """Run the main job on handwritten digits and leave everything it made in ``directory``.

    Interrupted runs go on where they stopped: training from its checkpoints, profiling from the
    latency table.

    Raises
    ------
    HwpruneError
        See the stage that failed.
    """
    _prepare(directory)
    clock = _Clock()
    torch.manual_seed(seed)
    train, test = load_digits_split(seed)
    test_batches = batches(test, size=360, shuffle=False, seed=seed)
    example = test[0][0].unsqueeze(0)

    with clock.stage("train"):
        dense = DigitsNet()
        options = FinetuneOptions(
            optimizer="adamw", lr=4e-3, weight_decay=1e-2, epochs=epochs, warmup_fraction=0.25, seed=seed
        )
        _train(dense, train, options, directory / "dense.checkpoint", "train", progress)
        accuracy_dense = evaluate_accuracy(dense, test_batches)
        atomic_write_bytes(directory / "dense.safetensors", save(dense.state_dict()))

    with clock.stage("plan"):
        calibration = list(itertools.islice(batches(train, shuffle=True, seed=seed), 8))
        planned = api.plan(
            dense,
            example,
            target,
            f"{100 * share:g}%",
            calibration,
            profile=profile,
            tables=tables,
            seed=seed,
            progress=progress,
        )
        planned.plan.save(directory / "plan.json")
    with clock.stage("prune"):
        pruned = api.apply_plan(dense, example, planned.plan)
        accuracy_cut = evaluate_accuracy(pruned.model, test_batches)
    with clock.stage("repair"):
        pruned = pruned.repair(calibration, progress=progress)
        accuracy_fitted = evaluate_accuracy(pruned.model, test_batches)
        options = FinetuneOptions(
            optimizer="adamw", lr=1e-3, weight_decay=1e-2, epochs=finetune_epochs, seed=seed
        )
        checkpoint = directory / "pruned.checkpoint"
        _train(pruned.model, train, options, checkpoint, "fine-tune", progress, teacher=dense)
        accuracy_pruned = evaluate_accuracy(pruned.model, test_batches)
        api.save(pruned, directory / "pruned")
    with clock.stage("compile"):
        progress("compile", 0, 2)
        provenance = {"plan": "plan.json", "quickstart_seed": seed}
        dense_module, _ = compile_model(dense, (example,), target)
        dense_module.save(directory / "dense-bundle", provenance)
        progress("compile", 1, 2)
        module, error = compile_model(pruned.model, (example,), target)
        module.save(directory / "bundle", provenance)
    with clock.stage("bench"):
        comparison, absent = bench_bundle(
            directory / "bundle",
            dense=directory / "dense-bundle",
            models={"dense": dense, "pruned": pruned.model},
            inputs=(example,),
            profile=measure_profile("publish"),
            seed=seed,
            progress=lambda done, total, name: progress(f"bench {name}", done, total),
        )
        data = comparison_data(comparison, absent)
        atomic_write_text(directory / "bench.json", json.dumps(data, indent=1) + "\n")
    with clock.stage("report"):
        accuracy = Accuracy(
            dataset=DATASET,
            dense=accuracy_dense,
            after_pruning=accuracy_cut,
            after_fit=accuracy_fitted,
            after_finetuning=accuracy_pruned,
        )
        report = _report(planned, comparison, absent, accuracy, share, error, clock)
        page = write_report(report, directory)
    for checkpoint in directory.glob("*.checkpoint"):
        checkpoint.unlink()
    return QuickstartResult(
        accuracy_dense=accuracy_dense,
        accuracy_pruned=accuracy_pruned,
        latency_dense_ms=report.dense.value_ms,
        latency_pruned_ms=report.shipped.value_ms,
        budget_ms=report.budget_ms,
        predicted_ms=report.predicted.value_ms,
        max_rel_error=error,
        seconds=clock.total,
        report=str(page),
    )


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".writable").touch()
        (directory / ".writable").unlink()
    except OSError as error:
        raise ArtifactError(
            f"{directory} cannot be written: {error.strerror}", hint="choose another directory with --out"
        ) from error


def _train(
    model: nn.Module,
    data: Any,
    options: FinetuneOptions,
    checkpoint: Path,
    what: str,
    progress: Progress,
    teacher: nn.Module | None = None,
) -> None:
    loader: Batches = batches(data, shuffle=True, seed=options.seed)
    finetune(
        model,
        loader,
        options=options,
        teacher=teacher,
        checkpoint=checkpoint,
        progress=lambda state: progress(what, state.step, state.steps),
    )


def _report(
    planned: api.Planned,
    comparison: Comparison,
    absent: dict[str, str],
    accuracy: Accuracy,
    share: float,
    error: float,
    clock: _Clock,
) -> ReportData:
    bench, loop, plan = planned.workbench, planned.loop, planned.plan
    stairs = collect.staircase_specs(bench, loop)
    staircases = ()
    if stairs is not None:
        name, group, specs = stairs
        table = bench.measure_kernels(list(specs.values()))
        staircases = (collect.staircase(bench, loop, name, group, specs, table),)
    dense = collect.measurement(comparison["dense (TVM)"])
    # The plan was made on another minute of this machine; its share of the dense latency holds.
    predicted = dense.value_ms * plan.predicted_ns / plan.dense_ns
    return ReportData(
        title="hwprune quickstart: handwritten digits",
        created=datetime.now(UTC),
        model=plan.model,
        target=collect.target_info(bench),
        budget_ms=share * dense.value_ms,
        budget_asked=plan.budget_asked,
        dense=dense,
        predicted=Measurement.exact(predicted),
        measured=collect.measurement(comparison[PRUNED]),
        accuracy=accuracy,
        max_rel_error=error,
        groups=collect.group_rows(plan),
        kernels=collect.kernel_rows(bench, loop),
        staircases=staircases,
        contenders=collect.contenders(comparison, PRUNED),
        ledger=collect.ledger_rows(plan),
        solver=collect.solver_info(plan),
        provenance=collect.provenance(bench, loop, plan),
        warnings=(
            *comparison.warnings,
            *collect.plan_warnings(bench, loop),
            *[f"{name} did not take part: {reason}" for name, reason in absent.items()],
        ),
        stage_seconds=clock.stages,
    )


class _Clock:
    """Wall-clock seconds by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._start = time.monotonic()

    @property
    def total(self) -> float:
        return time.monotonic() - self._start

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        start = time.monotonic()
        yield
        self.stages[name] = time.monotonic() - start
        logger.info("%s took %.1f s", name, self.stages[name])
