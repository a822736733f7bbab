"""Schedules proposed by TVM's MetaSchedule, one kernel at a time; runs in a process of its own.

Only what MetaSchedule is good at is left to it: the space of loop structures, the evolutionary
search and the learned cost model. Building and timing are done as for every other form of a kernel,
by whoever holds a :class:`Proposer`. Everything that was timed is written to the kernel's work
directory, so that a search that was cut off goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from hwprune.compile.emit import emit
from hwprune.compile.fallback import fallback_of
from hwprune.compile.sketch import sketch, unrolled_tile
from hwprune.compile.tuned import tuned_choice, unscheduled
from hwprune.compile.tvm_api import PrimFunc, TvmTarget, meta_schedule, plain_json
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.target import Target

#: Schedules that compete in one evolution, and its generations: small, as minutes are short.
POPULATION = 64
GENERATIONS = 3
#: Timings after which the cost model is better than chance.
WARM_UP = 24
#: Parallel tasks per thread, and the longest loop that becomes vectors (in registers).
TASKS_PER_THREAD = 4
VECTORS = 4
#: Rounds without a single schedule worth building, after which a kernel's space is given up.
PATIENCE = 5
#: What MetaSchedule is told about a schedule that failed.
_FAILED_S = 1e10


class Proposer:
    """Proposes schedules for a kernel and learns from their times.

    Parameters
    ----------
    spec
        Canonical kernel.
    target
        The target's fields.
    directory
        Where this kernel's trials are kept.
    seed
        Of MetaSchedule's random numbers.
    count
        Schedules per round.
    """

    def __init__(self, spec: str, target: Mapping[str, Any], directory: str, seed: int, count: int) -> None:
        self._spec, self._target = KernelSpec.parse(spec), Target.model_validate(target)
        functions = unscheduled(self._spec, self._target)
        own = None if fallback_of(self._spec) else sketch(emit(self._spec, self._target), self._target)
        Path(directory).mkdir(parents=True, exist_ok=True)
        self._searches = {
            name: _Search(function, own, self._target, Path(directory) / name, seed, count)
            for name, function in functions.items()
        }

    def propose(self) -> dict[str, Any]:
        """``{"choices": [...], "trials": n}``: a round of schedules that were not timed yet.

        None are left if the list is empty; ``trials`` counts those of earlier runs. A kernel of
        several functions gets new schedules for all of them at once.
        """
        found = {name: search.propose() for name, search in self._searches.items()}
        rounds = max((len(traces) for traces in found.values()), default=0)
        choices: list[Choice] = []
        for number in range(rounds):
            picked = {
                name: traces[number % len(traces)] if traces else None for name, traces in found.items()
            }
            choices.append(tuned_choice(self._spec, picked))
        trials = max((search.trials for search in self._searches.values()), default=0)
        return {"choices": [choice.to_dict() for choice in choices], "trials": trials}

    def learn(self, seconds: Sequence[float | None]) -> dict[str, Any]:
        """Take the times of the schedules last proposed, in order; None for one that failed."""
        for search in self._searches.values():
            search.learn(seconds)
        return {}

    def best(self, count: int) -> dict[str, Any]:
        """``{"choices": [...]}``: the fastest schedules so far, those of earlier runs included."""
        found = {name: search.best(count) for name, search in self._searches.items()}
        rounds = min((len(traces) for traces in found.values()), default=0)
        choices = [
            tuned_choice(self._spec, {name: traces[i] for name, traces in found.items()})
            for i in range(rounds)
        ]
        return {"choices": [choice.to_dict() for choice in choices]}


class _Search:
    """MetaSchedule's search over one PrimFunc."""

    def __init__(
        self,
        function: PrimFunc,
        own: Callable[[Any], None] | None,
        target: Target,
        stem: Path,
        seed: int,
        count: int,
    ) -> None:
        self._ms = ms = meta_schedule()
        # MetaSchedule wants to know how many cores there are to share work among.
        self._tvm_target = TvmTarget({**target.tvm, "num-cores": target.threads})
        self._count = count
        self._database = ms.database.JSONDatabase(f"{stem}.workload.json", f"{stem}.trials.json")
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=POPULATION, init_min_unmeasured=POPULATION // 4, genetic_num_iters=GENERATIONS
        )
        # Another seed when work goes on, or the same schedules would be drawn again.
        state = 1 + (seed * 7919 + len(self._database)) % (2**31 - 2)
        self._context = ms.TuneContext(
            mod=function.with_attr("global_symbol", "main"),
            target=self._tvm_target,
            space_generator=_space(ms, target, own),
            search_strategy=strategy,
            rand_state=state,
            num_threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        )
        self._workload = self._database.commit_workload(self._context.mod)
        self._model: Any = None
        self._candidates: list[Any] = []
        self._ended = False
        self.trials = len(self._database)
        self._most_vectors = 2 * target.vector_registers

    def propose(self) -> list[Any]:
        """Traces of the next candidates, as JSON values; none when the space is used up."""
        if self._ended:
            return []
        if self._model is None:
            self._model = self._ms.cost_model.XGBModel(
                num_warmup_samples=WARM_UP, num_tuning_cores=1, verbose_eval=0
            )
            self._relearn()
            self._context.pre_tuning(
                max_trials=1 << 30,
                num_trials_per_iter=self._count,
                design_spaces=self._context.generate_design_space(),
                database=self._database,
                cost_model=self._model,
            )
        self._candidates = []
        for _ in range(PATIENCE):
            drawn = list(self._context.generate_measure_candidates() or [])
            self._ended = not drawn
            # Tiles far beyond the registers take long to build, and are slow for sure.
            large = [unrolled_tile(c.sch) > self._most_vectors for c in drawn]
            dropped = list(compress(drawn, large))
            self._told(dropped, [None] * len(dropped))
            self._candidates = [c for c, out in zip(drawn, large, strict=True) if not out]
            if self._candidates or self._ended:
                break
        return [plain_json(candidate.sch.trace.as_json()) for candidate in self._candidates]

    def learn(self, seconds: Sequence[float | None]) -> None:
        if not self._candidates:
            return
        self._told(self._candidates, list(seconds)[: len(self._candidates)])
        self._candidates = []

    def _told(self, candidates: Sequence[Any], times: Sequence[float | None]) -> None:
        """Pass times on to the strategy, the database and the cost model."""
        if not candidates:
            return
        result = self._ms.runner.RunnerResult
        results = [result(None, "failed") if s is None else result([s], None) for s in times]
        self._context.notify_runner_results(candidates, results)
        for candidate, s in zip(candidates, times, strict=True):
            record = self._ms.database.TuningRecord(
                candidate.sch.trace,
                self._workload,
                [_FAILED_S if s is None else s],
                self._tvm_target,
                candidate.args_info,
            )
            self._database.commit_tuning_record(record)
        self._model.update(self._context, candidates, results)

    def best(self, count: int) -> list[Any]:
        records = self._database.get_top_k(self._workload, count)
        return [plain_json(r.trace.as_json()) for r in records if float(r.run_secs[0]) < _FAILED_S]

    def _relearn(self) -> None:
        """Teach the cost model what earlier runs have found out."""
        records = [r for r in self._database.get_all_tuning_records() if r.run_secs]
        if not records:
            return
        results = [self._ms.runner.RunnerResult([float(s) for s in r.run_secs], None) for r in records]
        self._model.update(self._context, [r.as_measure_candidate() for r in records], results)


def _space(ms: Any, target: Target, own: Callable[[Any], None] | None) -> Any:
    """Our sketch, else MetaSchedule's rules for CPUs (with one thread, without anything parallel)."""
    if own is not None:
        return ms.space_generator.ScheduleFn(own, sch_rules=[], postprocs="llvm", mutator_probs="llvm")
    rule = ms.schedule_rule
    several = target.threads > 1
    rules = [
        rule.AutoInline(
            into_producer=False,
            into_consumer=True,
            inline_const_tensor=True,
            disallow_if_then_else=True,
            require_injective=True,
            require_ordered=True,
            disallow_op=["tirx.exp"],
        ),
        rule.MultiLevelTiling(
            "SSRSRS",
            max_innermost_factor=VECTORS * target.simd_lanes,
            reuse_write=rule.ReuseType("may", [1, 2], "global"),
        ),
        rule.ParallelizeVectorizeUnroll(
            max_jobs_per_core=TASKS_PER_THREAD if several else -1,
            max_vectorize_extent=VECTORS * target.simd_lanes,
            unroll_max_steps=[0, 16, 64, 512],
            unroll_explicit=True,
        ),
        rule.RandomComputeLocation(),
    ]
    if several:
        rules.insert(1, rule.AddRFactor(max_jobs_per_core=TASKS_PER_THREAD, max_innermost_factor=64))
    return ms.space_generator.PostOrderApply(sch_rules=rules, postprocs="llvm", mutator_probs="llvm")
