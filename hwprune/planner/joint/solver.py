"""JointPruning behind the interface of the other solvers."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from hwprune.errors import UsageError
from hwprune.importance.registry import Loss
from hwprune.planner.joint.batches import check_loader, fixed_batches
from hwprune.planner.joint.checks import check_problems, check_unchanged
from hwprune.planner.joint.judge import best_by_loss, feasible_candidates
from hwprune.planner.joint.mapping import Architecture, Mapping
from hwprune.planner.joint.network import SharedNetwork, Variant
from hwprune.planner.joint.options import JointOptions
from hwprune.planner.joint.penalty import Penalty
from hwprune.planner.joint.rounding import round_feasibly
from hwprune.planner.joint.search import JointSearch, Progress
from hwprune.planner.joint.space import Space
from hwprune.planner.joint.stages import find_stages
from hwprune.planner.joint.start import start_vector
from hwprune.repair.state import model_tensors
from hwprune.solve.problem import Problem, Solution

Key = TypeVar("Key", bound=Hashable)

#: What was found for an earlier problem stays while it uses at most this share less of the new budget.
SPARE = 0.03


@dataclass(frozen=True)
class JointResult:
    """What a search found.

    Attributes
    ----------
    architecture
        The best of the candidates.
    candidates, losses
        Architectures within the budget that were judged, and the held-out loss of each on the shared
        weights.
    start
        Architecture that the search began with, about uniform; always among the candidates.
    vector, trail
        The final vector, and all vectors on the way, one row per move.
    training_losses
        Of every step of the weights.
    share
        The largest share of a limit that the architecture uses.
    """

    architecture: Architecture
    candidates: tuple[Architecture, ...]
    losses: tuple[float, ...]
    start: Architecture
    vector: np.ndarray
    trail: np.ndarray
    training_losses: tuple[float, ...]
    share: float


class JointSolver(Generic[Key]):
    """Widths, depth and resolution by antithetic gradient estimation on a weight-sharing network.

    A solver like the others: called with a problem it gives a solution within all limits. The first
    call runs the search; further calls, with prices or budgets corrected in between, move the vector
    on where that is needed, without training.

    Parameters
    ----------
    variants
        The network at every input size on offer, by any key.
    scores
        Per group one score per unit; of every width the units with the largest scores are kept, here
        as in plans.
    data, held_out
        Labelled batches that train the shared weights, and others that judge architectures.
    loss
        ``(outputs, targets) -> scalar``; cross entropy by default.
    checkpoint
        File from which an interrupted search goes on.

    Raises
    ------
    UsageError
        Data is missing, empty or can be read only once, or is the same for both purposes; input sizes
        are alike in area.

    Notes
    -----
    Liu et al., "Joint Multi-Dimension Pruning via Numerical Gradient Update", arXiv 2005.08931. Its
    code is not public; estimator, self-adaptation and schedule follow its description.
    """

    def __init__(
        self,
        variants: MappingOf[Key, Variant],
        scores: MappingOf[str, np.ndarray],
        *,
        data: Iterable[Any] | None,
        held_out: Iterable[Any] | None,
        loss: Loss | None = None,
        options: JointOptions | None = None,
        checkpoint: Path | None = None,
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        self.options = options or JointOptions()
        self._data = check_loader(data, "data", "to train its shared weights")
        self._held_out = check_loader(held_out, "held_out", "to judge networks by other batches")
        if data is held_out:
            raise UsageError(
                "data= and held_out= are the same batches", hint="keep some labelled batches out of training"
            )
        areas = {key: math.prod(variant.size or (0, 0)) for key, variant in variants.items()}
        self._keys = sorted(variants, key=lambda key: areas[key])
        if len(set(areas.values())) < len(areas):
            raise UsageError(
                "two input sizes have the same number of pixels, by which the search tells them apart",
                hint="offer sizes of different areas",
            )
        self._variants = [variants[key] for key in self._keys]
        self._scores, self._loss = scores, loss
        self._checkpoint, self._progress = checkpoint, progress
        self._network: SharedNetwork | None = None
        self._search: JointSearch | None = None
        self._first: np.ndarray | None = None
        self._result: JointResult | None = None

    @property
    def result(self) -> JointResult:
        """What the last call found."""
        if self._result is None:
            raise UsageError("the joint solver has not been called yet", hint="call it with a problem")
        return self._result

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Copies of the shared weights under the names of the user's module.

        ``model.load_state_dict(solver.weights, strict=False)`` on a copy of the model, then cut by the plan,
        begins fine-tuning where the search ended. Running statistics of BatchNorm are the original's.
        """
        if self._network is None:
            raise UsageError("the joint solver has not been called yet", hint="call it with a problem")
        return {n: t.detach().clone() for n, t in model_tensors(self._network.module).items()}

    def __call__(self, problem: Problem) -> Solution:
        """Solve for the only input size; see :meth:`best_of`."""
        if len(self._keys) != 1:
            raise UsageError(
                f"{len(self._keys)} input sizes and one problem", hint="call best_of with a problem for each"
            )
        return self.best_of({self._keys[0]: problem})[1]

    def best_of(self, problems: MappingOf[Key, Problem]) -> tuple[Key, Solution]:
        """The best input size of all and the solution there.

        Parameters
        ----------
        problems
            One per variant, under its key, with the same domains and limits.

        Raises
        ------
        BudgetError
            No architecture keeps the limits; the message names the closest that can be reached.
        PlanError
            The problems do not fit the variants, have no limit, or minimise something.
        UsageError
            The variants are not of one network, or the checkpoint is of another search.
        RepairError
            Training fails.
        """
        begin = time.perf_counter()
        ordered = check_problems(problems, self._keys)
        search = self._search
        if search is None:
            search = self._open(ordered)
            penalty = Penalty(search.mapping, ordered)
            search.run(penalty)
        else:
            check_unchanged(search.mapping.problem, ordered[-1])
            penalty = Penalty(search.mapping, ordered)
            if self._still_good(penalty):
                return self._solution(ordered, self.result.architecture, begin)
            search.adapt(penalty)
        self._result = self._judged(search, penalty)
        return self._solution(ordered, self._result.architecture, begin)

    def _open(self, problems: Sequence[Problem]) -> JointSearch:
        known = {block.name for block in problems[-1].blocks}
        last = self._variants[-1]
        stages = find_stages(last.captured, last.deps, [b for b in last.blocks if b.name in known])
        sizes = [math.sqrt(math.prod(v.size)) for v in self._variants if v.size is not None]
        space = Space.of(problems[-1], stages, sizes)
        mapping = Mapping(space, problems[-1], stages, len(self._variants))
        # Before anything is trained: raises where the budget cannot be reached.
        self._first = start_vector(mapping, problems)
        self._network = SharedNetwork(self._variants, self._scores)
        self._search = JointSearch(
            self._network,
            mapping,
            self._first,
            self._data,
            self._held_out,
            options=self.options,
            loss=self._loss,
            checkpoint=self._checkpoint,
            progress=self._progress,
        )
        return self._search

    def _judged(self, search: JointSearch, penalty: Penalty) -> JointResult:
        options, state, network = self.options, search.state, search.network
        assert self._first is not None
        recent = state.trail[-max(1, len(state.trail) // 4) :] or [state.v]
        sigma = search.mapping.space.sigma(state.v, options.sigma, options.sigma)
        vectors = [state.v, np.mean(recent, axis=0)]
        candidates = feasible_candidates(
            search.mapping, penalty.problems, vectors, sigma, options.candidates, options.seed
        )
        start = round_feasibly(search.mapping, penalty.problems, self._first)
        if all(start.key != c.key for c in candidates):
            candidates.append(start)
        best, losses = best_by_loss(
            network,
            candidates,
            fixed_batches(self._data, options.recalibration_batches, options.seed),
            fixed_batches(self._held_out, options.evaluation_batches, options.seed),
            search.objective,
            self._progress,
        )
        trail = np.array(state.trail).reshape(len(state.trail), len(state.v))
        return JointResult(
            architecture=best,
            candidates=tuple(candidates),
            losses=losses,
            start=start,
            vector=state.v,
            trail=trail,
            training_losses=tuple(state.losses),
            share=penalty.share(best),
        )

    def _still_good(self, penalty: Penalty) -> bool:
        result = self._result
        if result is None or not penalty.keeps(result.architecture):
            return False
        return penalty.share(result.architecture) >= result.share - SPARE

    def _solution(
        self, problems: Sequence[Problem], found: Architecture, begin: float
    ) -> tuple[Key, Solution]:
        problem = problems[found.variant]
        assert problem.keeps(found.choice), "rounding must keep the limits"
        bound = problem.constant_value + sum(max(0.0, *d.values) for d in problem.domains)
        bound += sum(max(0.0, block.value) for block in problem.blocks)
        seconds = time.perf_counter() - begin
        solution = Solution.of(problem, found.choice, bound=bound, seconds=seconds, solver="joint")
        return self._keys[found.variant], solution
