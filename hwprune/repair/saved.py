"""Repair of a pruned model on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hwprune.errors import UsageError
from hwprune.repair.accuracy import evaluate_accuracy
from hwprune.repair.after_cut import RepairReport, repair_cut, warn_of_training
from hwprune.repair.finetune import finetune
from hwprune.repair.options import RepairOptions, finetune_options
from hwprune.repair.origin import origin_of
from hwprune.repair.recalibrate import recalibrate_batchnorm
from hwprune.surgery import load_pruned, replace_weights
from hwprune.surgery.saved import stored_repairs


def repair_saved(
    directory: Path,
    factory: Callable[[], nn.Module],
    data: Iterable[Any],
    output: Path,
    *,
    teacher: nn.Module | None,
    test: Iterable[Any] | None,
    options: Mapping[str, Any],
    progress: Callable[[str, int, int], None],
    fit: RepairOptions | None = None,
    dense: nn.Module | None = None,
) -> dict[str, Any]:
    """Fit, recalibrate and fine-tune the pruned model in ``directory`` and write it to ``output``.

    Parameters
    ----------
    directory
        Written by :func:`hwprune.surgery.save_pruned`.
    factory
        Makes the dense architecture.
    data, test
        Labelled batches to train on, and to evaluate on (or None).
    teacher
        Dense model with its weights to distil from, or None.
    options
        Of :class:`FinetuneOptions`; with ``epochs`` 0 nothing is trained.
    fit
        How layers are fitted to those of the dense model before anything else; None leaves that out.
    dense
        The dense model with its weights, for ``fit``.

    Returns
    -------
    dict
        ``directory``, ``accuracy_before``, ``accuracy_recalibrated`` (after the fit, before
        any training), ``accuracy_after`` (None without test data), ``batchnorms``, ``steps``; with
        ``fit`` also ``layers``, how many were fitted.

    Raises
    ------
    UsageError
        An option is out of range, or the dense model's weights are missing.
    ArtifactError, RepairError
        The directory is damaged; training failed.
    """
    given = dict(options)
    epochs = int(given.pop("epochs"))
    settings = finetune_options(**{**given, "epochs": max(1, epochs)})
    if fit is not None and dense is None:
        raise UsageError(
            "layers are fitted to those of the dense model, whose weights are missing",
            hint="give --weights, or leave the fit out",
        )
    model = load_pruned(directory, factory).model
    before = None if test is None else evaluate_accuracy(model, test)
    report: RepairReport | None = None
    found: dict[str, Any] = {}
    if fit is not None and dense is not None:
        # BatchNorm is measured below, on more data than a fit reads.
        fit = fit.model_copy(update={"recalibrate": False})
        warn_of_training(stored_repairs(directory))
        report = repair_cut(model, origin_of(directory, dense), data, fit, progress=progress)
        found = {"layers": len(report.layers)}
    progress("recalibrate", 0, 1)
    batchnorms = recalibrate_batchnorm(model, data)
    recalibrated = None if test is None else evaluate_accuracy(model, test)
    steps = 0
    # Beside the output, not in it: the output appears complete or not at all.
    checkpoint = output.with_name(output.name + ".checkpoint")
    if epochs > 0:
        steps = finetune(
            model,
            data,
            options=settings,
            teacher=teacher,
            checkpoint=checkpoint,
            progress=lambda state: progress("fine-tune", state.step, state.steps),
        ).steps
    after = None if test is None else evaluate_accuracy(model, test)
    record: dict[str, Any] = {} if report is None else report.to_dict()
    record |= {"batchnorms": batchnorms, "finetune_steps": steps}
    if steps:
        record["finetune"] = settings.model_dump(mode="json")
    replace_weights(directory, output, model, [record])
    checkpoint.unlink(missing_ok=True)
    return {
        "directory": str(output),
        "accuracy_before": before,
        "accuracy_recalibrated": recalibrated,
        "accuracy_after": after,
        "batchnorms": batchnorms,
        "steps": steps,
        **found,
    }
