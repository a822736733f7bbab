"""Fine-tuning of a pruned model, interruptible and exactly resumable."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from hwprune.errors import RepairError
from hwprune.importance.modes import in_mode
from hwprune.importance.registry import Loss
from hwprune.repair.objective import Objective
from hwprune.repair.options import FinetuneOptions
from hwprune.repair.progress import FinetuneReport
from hwprune.repair.rng import rng_state, set_rng_state
from hwprune.repair.run import Evaluate, Run, Watch


def finetune(
    model: nn.Module,
    train_loader: Iterable[Any],
    *,
    options: FinetuneOptions | None = None,
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    evaluate: Evaluate | None = None,
    progress: Watch | None = None,
    checkpoint: Path | None = None,
) -> FinetuneReport:
    """Train a model further, in place.

    Parameters
    ----------
    model
        A module or captured graph; it keeps its mode and device.
    train_loader
        Re-iterable; yields tensors, tuples or dictionaries (see
        :func:`hwprune.importance.batches.split_batch`). Several loaders are mixed by
        :class:`hwprune.repair.mixing.MixedLoader`.
    options
        See :class:`FinetuneOptions`.
    teacher
        Model to distil from, usually the dense one; run in evaluation mode without gradients.
    loss
        Task loss ``(outputs, targets) -> scalar``; cross entropy by default.
    evaluate
        Called before training and after every epoch with the model in evaluation mode; higher is
        better.
    progress
        Called after every step.
    checkpoint
        File written after every epoch and on Ctrl-C. Where it exists the run is taken up from it
        and ends, on a CPU, bit for bit like one that was never interrupted. A finished run's file
        gives its result back without training.

    Raises
    ------
    RepairError
        The loss is not finite (names epoch, step and learning rate), the loader is empty, or the
        checkpoint belongs to another run.
    KeyboardInterrupt
        After Ctrl-C, once the step is done and the checkpoint written.
    """
    options = options or FinetuneOptions()
    if teacher is model:
        raise RepairError("the teacher is the model itself", hint="pass the dense model, or a copy")
    if options.keep_best and evaluate is None:
        raise RepairError("keep_best needs a metric", hint="pass evaluate=, or set keep_best=False")
    run = Run(model, train_loader, options, Objective(options, loss, teacher), evaluate, progress, checkpoint)
    before = rng_state()
    try:
        with _training(model), _evaluating(teacher):
            return run.run()
    finally:
        set_rng_state(before)


@contextmanager
def _training(model: nn.Module) -> Generator[None, None, None]:
    mode = in_mode(model, training=True)
    try:
        mode.__enter__()
    except NotImplementedError as error:
        raise RepairError(
            f"the model cannot be put into training mode: {error}",
            hint="fine-tune the module or graph that pruning returned, not a raw export",
        ) from error
    try:
        yield
    finally:
        mode.__exit__(None, None, None)


@contextmanager
def _evaluating(teacher: nn.Module | None) -> Generator[None, None, None]:
    if teacher is None:
        yield
        return
    with in_mode(teacher, training=False):
        yield
