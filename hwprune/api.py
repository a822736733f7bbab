"""The public API: from a trained model to a pruned, compiled, measured one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.analysed import analyse_model
from hwprune.benchmark import bench_bundle
from hwprune.compile import CompiledModule
from hwprune.delivery import compile_model
from hwprune.importance.registry import Loss
from hwprune.measure.compare import Comparison
from hwprune.measure.site import Site
from hwprune.onnx_backend.module import OnnxModule
from hwprune.planner.fleet.budgets import Budgets
from hwprune.planner.options import PlanOptions
from hwprune.planner.workbench import Progress, measure_profile, silent
from hwprune.planning.iterative import prune_iteratively
from hwprune.planning.plans import frontier, solve_for, verdict
from hwprune.planning.prepare import Targets, prepare
from hwprune.planning.valued import Judges
from hwprune.pruned import Planned, Pruned, Subject
from hwprune.repair.options import Method, RepairOptions, asked_repair
from hwprune.solve.plan import Plan
from hwprune.surgery import load_pruned, save_pruned
from hwprune.target import Target, load_target

_log = logging.getLogger(__name__)

__all__ = [
    "PlanOptions",
    "Planned",
    "Pruned",
    "RepairOptions",
    "analyse_model",
    "apply_plan",
    "bench",
    "compile",
    "frontier",
    "load",
    "plan",
    "prune",
    "prune_iteratively",
    "save",
    "verdict",
]


def plan(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: Targets = "host",
    latency: Budgets = None,
    data: Iterable[Any] | None = None,
    *,
    options: PlanOptions | None = None,
    criterion: Judges = None,
    loss: Loss | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    submodule: str | None = None,
    inside_heads: Sequence[str] = (),
    prune_outputs: bool = False,
    threads: int | None = None,
    profile: str = "quick",
    tables: Path | None = None,
    search: bool = False,
    minimum: float = 0.1,
    steps: int = 8,
    checks: int = 3,
    seed: int = 0,
    site: Site | None = None,
    progress: Progress = silent,
) -> Planned:
    """Choose which channels to keep, under a budget of measured latency.

    Parameters
    ----------
    model
        Trained model; it is not changed.
    example_inputs
        Inputs of the shape that will be deployed (batch size included).
    target
        Name of a target, path of a target file, or a target; several for one plan that suits them all,
        which is then named after the first.
    latency
        ``"50%"`` of the dense model's measured latency, or a time such as ``"8ms"``; for several targets
        one for all, or a mapping from their names. Default: ``"50%"``, or no budget where the options
        have a floor.
    data
        Labelled batches ``(inputs, labels)`` for criteria that need them.
    options
        What else the plan must keep to: parameters, memory, widths of layers, a floor of importance.
    criterion
        One of ``hwprune.importance.available()``, with parameters as in ``"taylor2019:form=gate"`` or
        from ``hwprune.importance.get``. Default: ``taylor2019`` with data, else ``lamp``. With held-out
        data also several: a plan is made by each, and the one of the least held-out loss taken.
    include, exclude
        Patterns (``layer1.*``) over group names.
    submodule
        Module path (``"backbone"``) of the only part to prune, for models that cannot be exported
        whole. Its interface to the rest stays as it is; ``example_inputs`` are those of the whole
        model (``([image, image],)`` for a detector), names of groups and the latency those of
        the submodule.
    inside_heads
        Patterns over attention modules in which positions within the heads go, the same in every
        head; everywhere else whole heads do.
    prune_outputs
        Channels of the model's outputs may go, too; by default they are protected.
    profile
        Care of the measurements: ``quick``, ``table`` or ``publish``.
    search
        Search for the fastest form of each kernel before measuring it; :func:`compile` then
        builds the same forms.
    minimum
        Least share of each group to keep.
    steps
        Widths on offer per group.
    checks
        End-to-end measurements of candidate plans at most; 0 trusts the prediction.
    site
        Where kernels and plans are timed. Default: this machine. On a device that is only known by
        its table (:class:`hwprune.measure.runners.carry.CarriedSite`) nothing is: ``checks`` is 0.

    Raises
    ------
    HwpruneError
        See ``hwprune.errors``: the message says which stage failed and what to do.
    """
    prepared = prepare(
        model,
        example_inputs,
        target,
        data,
        latency=latency,
        options=options,
        criterion=criterion,
        loss=loss,
        include=include,
        exclude=exclude,
        submodule=submodule,
        inside_heads=inside_heads,
        prune_outputs=prune_outputs,
        threads=threads,
        profile=profile,
        tables=tables,
        search=search,
        minimum=minimum,
        steps=steps,
        checks=checks,
        seed=seed,
        site=site,
        progress=progress,
    )
    return solve_for(prepared, latency)


def apply_plan(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    made: Plan,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Pruned:
    """Cut a model, or the submodule that the plan names, and verify it against the masked original.

    Blocks that the plan removes are taken out, too. ``include`` and ``exclude`` are by default those
    that the plan was made with.

    Raises
    ------
    PlanError
        The plan was made for another model, or does not fit the blocks of this one.
    VerificationError
        The cut model does not equal the masked original.
    """
    return Subject.of_plan(model, example_inputs, made, include=include, exclude=exclude).cut(made)


def prune(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: Targets = "host",
    latency: Budgets = None,
    data: Iterable[Any] | None = None,
    *,
    repair: RepairOptions | Method | None = None,
    **options: Any,
) -> Pruned:
    """Prune a trained model to a latency budget on a target; ``model`` is never changed.

    Takes the parameters of :func:`plan`; the result is verified against the masked original. With
    ``repair`` (``"least_squares"``, ``"scales"`` or options) it is then repaired on ``data`` without
    training, see :meth:`Pruned.repair`; with held-out data every cut is judged after that repair, too.

    Examples
    --------
    >>> pruned = hwprune.prune(model, torch.randn(1, 3, 224, 224), latency="50%", data=loader)
    >>> pruned.plan.predicted_ns <= pruned.plan.budget_ns
    True
    """
    asked = asked_repair(repair, data)
    wanted: PlanOptions | None = options.get("options")
    if asked is not None and wanted is not None and wanted.held_out is not data:
        options["options"] = wanted.judging_after(asked)
    planned = plan(model, example_inputs, target, latency, data, **options)
    pruned = planned.subject.cut(planned.plan, planned)
    if asked is None or data is None:
        return pruned
    return pruned.repair(data, asked, progress=options.get("progress", silent))


def compile(
    model: nn.Module,
    example_inputs: Sequence[torch.Tensor] | torch.Tensor,
    target: str | Path | Target = "host",
    *,
    threads: int | None = None,
    check: bool = True,
    search: bool | None = None,
    tune: float | None = None,
    tables: Path | None = None,
) -> CompiledModule | OnnxModule:
    """Compile a model for a target; ``.save(directory)`` writes a bundle that runs on its own.

    For a target whose backend is ``onnxruntime`` that is an ``.onnx`` file and what runs it.

    With ``search`` each kernel is built in the fastest of about a dozen forms, measured here once
    and remembered in ``tables``; without it (None) forms found earlier are used, False ignores them.
    With ``tune`` MetaSchedule then looks for that many minutes for faster loops of the kernels that
    stay behind; what it tried and found is logged.

    Raises
    ------
    CompileError
        No code generator, TVM failed, or the outputs differ from PyTorch's.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    resolved = target if isinstance(target, Target) else load_target(target, threads=threads)
    module, _ = compile_model(
        model,
        inputs,
        resolved,
        check=check,
        search=search,
        tune=tune,
        tuned=lambda report: _log.info(report.summary()),
        tables=tables,
    )
    return module


def bench(directory: str | Path, *, profile: str = "table", **options: Any) -> Comparison:
    """Time a bundle on this machine; see :func:`hwprune.benchmark.bench_bundle` for the options."""
    return bench_bundle(Path(directory), profile=measure_profile(profile), **options)[0]


def save(pruned: Pruned, directory: str | Path) -> None:
    """Write a pruned model as ``plan.json`` and safetensors (no pickle).

    Raises
    ------
    ArtifactError
        The directory cannot be written, or holds something else.
    """
    save_pruned(
        directory,
        pruned.model,
        pruned.captured,
        pruned.deps,
        pruned.plan.remaining,
        pruned.plan.model_dump(mode="json"),
        submodule=pruned.submodule,
        blocks=pruned.removed,
        repairs=[*pruned.history, *(report.to_dict() for report in pruned.repairs)],
        samplers=pruned.samplers,
    )


def load(directory: str | Path, factory: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild a saved model: ``factory()`` makes the dense one, which is cut and filled.

    Raises
    ------
    ArtifactError
        Missing, edited or truncated files.
    PlanError
        ``factory`` makes another model.
    """
    return load_pruned(directory, factory).model
