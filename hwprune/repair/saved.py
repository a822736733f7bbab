"""Repair of a pruned model on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from hwprune.errors import UsageError
from hwprune.repair.accuracy import evaluate_accuracy
from hwprune.repair.finetune import finetune
from hwprune.repair.options import FinetuneOptions
from hwprune.repair.recalibrate import recalibrate_batchnorm
from hwprune.surgery import load_pruned, replace_weights


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
) -> dict[str, Any]:
    """Recalibrate and fine-tune the pruned model in ``directory`` and write it to ``output``.

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
        Of :class:`FinetuneOptions`; ``epochs`` 0 only recalibrates.

    Returns
    -------
    dict
        ``directory``, ``accuracy_before``, ``accuracy_after`` (None without test data),
        ``batchnorms``, ``steps``.

    Raises
    ------
    UsageError
        An option is out of range.
    ArtifactError, RepairError
        The directory is damaged; training failed.
    """
    given = dict(options)
    epochs = int(given.pop("epochs"))
    try:
        settings = FinetuneOptions.model_validate({**given, "epochs": max(1, epochs)})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"option '{'.'.join(map(str, first['loc']))}' is {first['input']!r}: {first['msg'].lower()}",
            hint="see hwprune repair --help",
        ) from error
    model = load_pruned(directory, factory).model
    before = None if test is None else evaluate_accuracy(model, test)
    progress("recalibrate", 0, 1)
    batchnorms = recalibrate_batchnorm(model, data)
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
    replace_weights(directory, output, model)
    checkpoint.unlink(missing_ok=True)
    return {
        "directory": str(output),
        "accuracy_before": before,
        "accuracy_after": after,
        "batchnorms": batchnorms,
        "steps": steps,
    }
