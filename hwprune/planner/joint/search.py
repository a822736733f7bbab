"""The search: steps of the shared weights, and steps of the vector."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwprune.errors import RepairError
from hwprune.importance.batches import Batch, device_of, split_batch
from hwprune.importance.registry import Loss
from hwprune.planner.joint.estimator import antithetic_gradient, normalised_step
from hwprune.planner.joint.mapping import Mapping
from hwprune.planner.joint.network import SharedNetwork
from hwprune.planner.joint.options import JointOptions
from hwprune.planner.joint.penalty import Penalty
from hwprune.planner.joint.schedule import Schedule
from hwprune.planner.joint.state import SearchState
from hwprune.repair.interrupt import PatientInterrupt
from hwprune.repair.objective import Objective
from hwprune.repair.optimizer import build_optimizer, set_learning_rate
from hwprune.repair.options import FinetuneOptions
from hwprune.repair.rng import rng_state, seed_all, set_rng_state
from hwprune.repair.schedule import learning_rate
from hwprune.repair.stream import BatchStream

logger = logging.getLogger(__name__)

#: Called after every step of the weights: what, how many are done, of how many.
Progress = Callable[[str, int, int], None]


class JointSearch:
    """JointPruning: the vector and the weights are improved in turn.

    Parameters
    ----------
    network, mapping
        Shared weights, and what a vector stands for.
    start
        The first vector.
    train, held_out
        Re-iterable loaders of labelled batches: for the weights and for the vector.
    loss
        ``(outputs, targets) -> scalar``; cross entropy by default.
    checkpoint
        File written now and then and on Ctrl-C; where it exists the search goes on from it and ends,
        on a CPU, bit for bit like one that was never interrupted.

    Notes
    -----
    Liu et al., "Joint Multi-Dimension Pruning via Numerical Gradient Update", arXiv 2005.08931.
    """

    def __init__(
        self,
        network: SharedNetwork,
        mapping: Mapping,
        start: np.ndarray,
        train: Iterable[Any],
        held_out: Iterable[Any],
        *,
        options: JointOptions,
        loss: Loss | None = None,
        checkpoint: Path | None = None,
        progress: Progress,
    ) -> None:
        self.network, self.mapping, self.options = network, mapping, options
        self.checkpoint, self.progress = checkpoint, progress
        self.schedule = Schedule(options)
        weights = FinetuneOptions(
            optimizer=options.optimizer,
            lr=options.lr,
            momentum=options.momentum,
            nesterov=options.momentum > 0,
            weight_decay=options.weight_decay,
        )
        self.objective = Objective(weights, loss, None)
        self.device = device_of(network.module)
        self.state = SearchState(
            options,
            mapping.space,
            network.module,
            build_optimizer(network.module, weights),
            BatchStream(train),
            BatchStream(held_out),
            np.random.default_rng(options.seed),
            start,
            rng_state(),
        )

    def run(self, penalty: Penalty) -> None:
        """Search under a penalty until all steps are done.

        Raises
        ------
        RepairError
            A loss is not finite, or the batches do not suit the loss.
        KeyboardInterrupt
            After Ctrl-C, once the step is done and the checkpoint written.
        """
        state, before = self.state, rng_state()
        interrupt = PatientInterrupt()
        try:
            # Seeds of their own, so that the order of the data and dropout share no random numbers.
            for stream, shift in ((state.train, 1), (state.held_out, 2)):
                seed_all(self.options.seed + shift)
                stream.start()
            seed_all(self.options.seed)
            state.rng = rng_state()
            if self.checkpoint is not None and self.checkpoint.exists():
                state.load(self.checkpoint)
                logger.info("going on after %d of %d steps", state.step, self.options.iterations)
            with interrupt:
                while state.step < self.options.iterations:
                    self._iterate(penalty)
                    last = state.step == self.options.iterations
                    if interrupt.requested or last or state.step % self.options.checkpoint_every == 0:
                        self._save()
                    if interrupt.requested:
                        raise KeyboardInterrupt
        finally:
            set_rng_state(before)

    def adapt(self, penalty: Penalty) -> None:
        """Move the vector under another penalty, with the weights as they are."""
        before = rng_state()
        try:
            for _ in range(self.options.refine):
                self.move(penalty, self.schedule.sigma(self.options.iterations), self.options.eta)
        finally:
            set_rng_state(before)

    def move(self, penalty: Penalty, share: float, eta: float) -> None:
        """One step of the vector: pairs on one held-out batch, and the table's own slope.

        Parameters
        ----------
        share
            Relative perturbation.
        eta
            Length of the step.
        """
        state, space = self.state, self.mapping.space
        sigma = space.sigma(state.v, share, self.options.sigma)
        directions = state.draws.standard_normal((self.options.pairs, len(state.v)))
        batch = split_batch(state.held_out.next(), device=self.device)
        above, below = (
            np.array([self._judge(space.clip(state.v + sign * sigma * e), batch) for e in directions])
            for sign in (1.0, -1.0)
        )
        gradient = antithetic_gradient(above, below, directions, sigma)
        gradient += self.options.penalty * penalty.gradient(state.v, sigma)
        state.v = space.clip(normalised_step(state.v, gradient, eta))
        state.trail.append(state.v)

    def _iterate(self, penalty: Penalty) -> None:
        state, step = self.state, self.state.step
        lr = learning_rate(step, self.options.iterations, peak=self.options.lr)
        set_learning_rate(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        batch = split_batch(state.train.next(), device=self.device)
        vectors = self.schedule.vectors(step, state.v, self.mapping.space, state.draws)
        total = 0.0
        for v in vectors:
            loss = self.objective(self.network.sub(self.mapping.at(v), "train"), batch) / len(vectors)
            total += _finite(float(loss.detach()), step, lr)
            loss.backward()
        if self.options.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.network.module.parameters(), self.options.clip_norm)
            _finite(float(norm), step, lr)
        state.optimizer.step()
        state.losses.append(total)
        if self.schedule.moves(step):
            self.move(penalty, self.schedule.sigma(step), self.schedule.eta(step))
            share = penalty.share(self.mapping.at(state.v))
            logger.info("step %d: loss %.4g, %.3f of the budget", step + 1, total, share)
        state.step += 1
        state.rng = rng_state()
        self.progress("joint search", state.step, self.options.iterations)

    def _judge(self, v: np.ndarray, batch: Batch) -> float:
        with torch.no_grad():
            value = float(self.objective(self.network.sub(self.mapping.at(v), "probe"), batch))
        return _finite(value, self.state.step, 0.0)

    def _save(self) -> None:
        if self.checkpoint is not None:
            self.state.save(self.checkpoint)


def _finite(value: float, step: int, lr: float) -> float:
    if not math.isfinite(value):
        raise RepairError(
            f"the joint search met a loss or gradient of {value} in step {step + 1} (learning rate {lr:.3g})",
            hint="lower lr, set clip_norm; check the data for NaN",
        )
    return value
