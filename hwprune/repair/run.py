"""One training run: steps, epochs, evaluation, checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.errors import RepairError
from hwprune.importance.batches import device_of, split_batch
from hwprune.importance.modes import in_mode
from hwprune.repair.interrupt import PatientInterrupt
from hwprune.repair.objective import Objective
from hwprune.repair.optimizer import build_optimizer, set_learning_rate
from hwprune.repair.options import FinetuneOptions
from hwprune.repair.progress import EpochRecord, FinetuneReport, Progress
from hwprune.repair.rng import rng_state, seed_all
from hwprune.repair.schedule import learning_rate
from hwprune.repair.state import TrainingState, copy_tensors, model_tensors
from hwprune.repair.stream import BatchStream, loader_length

_log = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module], float]
Watch = Callable[[Progress], None]


class Run:
    """A run of :func:`hwprune.repair.finetune`; the caller sets modes and restores random states."""

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        options: FinetuneOptions,
        objective: Objective,
        evaluate: Evaluate | None,
        progress: Watch | None,
        checkpoint: Path | None,
    ) -> None:
        self.model, self.options, self.objective = model, options, objective
        self.evaluate, self.progress, self.checkpoint = evaluate, progress, checkpoint
        self.device = device_of(model)
        self.per_epoch, self.total = lengths(loader, options)
        self.epochs = math.ceil(self.total / self.per_epoch)
        self.warmup = round(options.warmup_fraction * self.total)
        optimizer = build_optimizer(model, options)
        self.state = TrainingState(options, model, optimizer, BatchStream(loader), rng_state())
        self.interrupt = PatientInterrupt()
        self.in_step = False

    def run(self) -> FinetuneReport:
        state, resumed = self.state, None
        # Two seeds, so that the order of the data and dropout do not share their random numbers.
        seed_all(self.options.seed + 1)
        state.stream.start()
        seed_all(self.options.seed)
        if self.checkpoint is not None and self.checkpoint.exists():
            state.load(self.checkpoint)
            resumed = state.step
            _log.info("resuming %s after %d of %d steps", self.checkpoint, state.step, self.total)
        elif self.evaluate is not None:
            state.initial_metric = self._measure()
            self._note_best(state.initial_metric, 0)
        if resumed is None:
            state.rng = rng_state()
        try:
            with self.interrupt:
                while state.epoch < self.epochs:
                    while state.step < min(self.total, (state.epoch + 1) * self.per_epoch):
                        if self.interrupt.requested:
                            raise KeyboardInterrupt
                        self._step()
                    self._close_epoch()
        except KeyboardInterrupt:
            # In the middle of a step the weights are half updated: the last checkpoint stays.
            if self.checkpoint is not None and not self.in_step:
                state.save(self.checkpoint)
                _log.info("interrupted after %d steps; checkpoint %s", state.step, self.checkpoint)
            raise
        if self.options.keep_best:
            copy_tensors(self.model, state.best, source="the best state")
        return FinetuneReport(
            tuple(state.history),
            state.step,
            state.initial_metric,
            state.best_metric,
            state.best_epoch,
            resumed,
        )

    def _step(self) -> None:
        state, options = self.state, self.options
        raw = self._next()
        self.in_step = True
        batch = split_batch(raw, device=self.device)
        lr = self._lr(state.step)
        set_learning_rate(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(self.model, batch)
        value = float(loss.detach())
        where = f"epoch {state.epoch + 1}, step {state.step + 1} (learning rate {lr:.3g})"
        _check_finite(value, f"the loss is {value} at {where}")
        loss.backward()
        if options.clip_norm is not None:
            norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), options.clip_norm))
            _check_finite(norm, f"the gradient norm is {norm} at {where}")
        state.optimizer.step()
        state.step += 1
        state.epoch_steps += 1
        state.epoch_loss += value
        state.rng = rng_state()
        self.in_step = False
        if self.progress is not None:
            self.progress(Progress(state.epoch + 1, self.epochs, state.step, self.total, value, lr))

    def _lr(self, step: int) -> float:
        peak, final_ratio = self.options.lr, self.options.final_lr_ratio
        return learning_rate(step, self.total, peak=peak, warmup=self.warmup, final_ratio=final_ratio)

    def _next(self) -> Any:
        try:
            return self.state.stream.next()
        except RuntimeError as error:
            # Ctrl-C reaches a DataLoader's worker processes too, and then they are reported as lost.
            if self.interrupt.requested:
                raise KeyboardInterrupt from error
            raise

    def _close_epoch(self) -> None:
        state = self.state
        state.optimizer.zero_grad(set_to_none=True)
        for name, tensor in model_tensors(self.model).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise RepairError(f"{name} is not finite after epoch {state.epoch + 1}", hint=_HINT)
        metric = self._measure() if self.evaluate is not None else None
        # From here on nothing can be interrupted half way: the epoch is closed in one go.
        state.epoch += 1
        mean_loss = state.epoch_loss / state.epoch_steps
        lr = self._lr(state.step - 1)
        state.history.append(EpochRecord(state.epoch, mean_loss, lr, metric))
        state.epoch_loss, state.epoch_steps = 0.0, 0
        if metric is not None:
            self._note_best(metric, state.epoch)
        state.rng = rng_state()
        _log.info("epoch %d of %d: loss %.4g, metric %s", state.epoch, self.epochs, mean_loss, metric)
        if self.checkpoint is not None:
            state.save(self.checkpoint)

    def _measure(self) -> float:
        assert self.evaluate is not None
        with torch.no_grad(), in_mode(self.model, training=False):
            metric = float(self.evaluate(self.model))
        if math.isnan(metric):
            raise RepairError(
                f"evaluate gave NaN after {self.state.step} steps", hint="look into evaluate and its data"
            )
        return metric

    def _note_best(self, metric: float, epoch: int) -> None:
        state = self.state
        if state.best_metric is not None and not metric > state.best_metric:
            return
        state.best_metric, state.best_epoch = metric, epoch
        if self.options.keep_best:
            state.best = {name: t.detach().clone() for name, t in model_tensors(self.model).items()}


_HINT = "lower lr, set clip_norm, or lengthen the warm-up; check the data for NaN"


def _check_finite(value: float, message: str) -> None:
    if not math.isfinite(value):
        raise RepairError(message, hint=_HINT)


def lengths(loader: Iterable[Any], options: FinetuneOptions) -> tuple[int, int]:
    """Steps per epoch and in all.

    Raises
    ------
    RepairError
        The loader is empty, or nobody says where an epoch ends.
    """
    length = options.steps_per_epoch or loader_length(loader)
    if length == 0:
        raise RepairError("the training loader is empty", hint="pass a loader with data")
    if options.steps is not None:
        return min(length or options.steps, options.steps), options.steps
    if length is None:
        raise RepairError(
            "the training loader has no length, so an epoch has no end",
            hint="set steps or steps_per_epoch in the options",
        )
    return length, length * options.epochs
