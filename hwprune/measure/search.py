"""A short measured search: about a dozen forms of each kernel, raced against its default.

Results go to ``choices.json`` beside the latency table, batch by batch: a search that is cut off
goes on where it was, and a kernel that has been searched is not searched again.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwprune.errors import MeasureError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.kernel import KernelSpec
from hwprune.measure.backend import refuse_forms
from hwprune.measure.build import Builder, BuildJob
from hwprune.measure.device import Device
from hwprune.measure.judge import Judge, faster
from hwprune.measure.lock import writing
from hwprune.measure.profile import scratch_directory
from hwprune.measure.provenance import versions
from hwprune.measure.rotation import copies_for
from hwprune.measure.site import LocalSite, Site
from hwprune.measure.sweep import Progress
from hwprune.measure.table_writer import timestamp
from hwprune.measure.toolchain import own_directory
from hwprune.target import Target

#: Largest difference from the default's output, relative to the largest output: summing in another
#: order, and transforming the sums.
TOLERANCE = {"direct": 1e-4, "winograd": 1e-3}
#: Forms built before the machine is left quiet for timing.
BATCH_FORMS = 48

_log = logging.getLogger(__name__)
Forms = Callable[[KernelSpec, Target], tuple[Choice, ...]]
#: A kernel and its forms.
_Candidates = tuple[KernelSpec, tuple[Choice, ...]]


@dataclass
class SearchReport:
    """What a search did.

    ``cached`` kernels were searched before, ``fixed`` ones have one form only, ``remaining`` ones
    were left out because time was up. ``gains`` maps the label of each kernel that left its default
    to default time over chosen time. ``failures`` maps the label of a form to why it was dropped.
    """

    requested: int
    cached: int
    fixed: int = 0
    searched: int = 0
    remaining: int = 0
    gains: dict[str, float] = field(default_factory=dict[str, float])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    build_s: float = 0.0
    time_s: float = 0.0

    @property
    def mean_gain(self) -> float:
        """Geometric mean of the gains over all kernels searched now."""
        if not self.searched:
            return 1.0
        return math.exp(sum(math.log(g) for g in self.gains.values()) / self.searched)


def search(
    specs: Sequence[KernelSpec],
    target: Target,
    directory: Path,
    *,
    minutes: float | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    site: Site | None = None,
    builder: Builder | None = None,
    judge: Judge | None = None,
    forms: Forms | None = None,
    pipeline: str | None = None,
) -> SearchReport:
    """Find the fastest form of kernels; what ``choices.json`` has already is skipped.

    Parameters
    ----------
    specs
        Kernels; duplicates are searched once.
    target
        What they are built for.
    directory
        Directory of the latency table that the choices belong to.
    minutes
        No new batch is begun after this long; None searches all.
    progress
        As in :func:`hwprune.measure.profile.profile`.
    seed
        Of the order of turns and of the arguments that results are compared on.
    site
        Where forms are raced. Default: this machine.
    builder, judge, forms, pipeline
        How kernels are built and raced (default: those of the site), which forms they have, and the
        pipeline's hash.

    Raises
    ------
    MeasureError
        Another process writes this directory.
    TargetError
        The target cannot be timed at the site.
    TableError
        ``choices.json`` is damaged.
    """
    refuse_forms(target, True)
    begin = time.monotonic()
    with ExitStack() as stack:
        site = site or LocalSite()
        if judge is None:
            site.require(target)
            judge = stack.enter_context(site.judge(target))
        if forms is None:
            from hwprune.compile.choice import choices_for

            forms = choices_for
        if pipeline is None:
            from hwprune.compile import pipeline_hash

            pipeline = pipeline_hash(target)
        directory = own_directory(directory)
        stack.enter_context(writing(directory))
        choices = ChoiceTable.load(directory)
        if not choices.provenance:
            choices.provenance = search_provenance(target, pipeline, seed, site.device())
        unique = list({spec.digest(): spec for spec in specs}.values())
        todo = [spec for spec in unique if spec not in choices]
        report = SearchReport(len(unique), len(unique) - len(todo))
        several = [(spec, found) for spec in todo if len(found := forms(spec, target)) > 1]
        report.fixed = len(todo) - len(several)
        if several and builder is None:
            builder = site.builder(target)
            stack.callback(builder.close)
        assert builder is not None or not several
        scratch = stack.enter_context(scratch_directory(directory))
        while several:
            if minutes is not None and time.monotonic() - begin >= 60 * minutes:
                report.remaining = len(several)
                break
            batch, several = _split(several)
            assert builder is not None
            done = report.searched
            if progress is not None:
                progress(done, done + len(batch) + len(several), f"building forms of {len(batch)} kernels")
            found = _search_batch(batch, builder, judge, scratch, report, seed)
            for spec, result in found:
                choices.put(spec, result)
            choices.save(directory)
            if progress is not None:
                progress(report.searched, report.searched + len(several), batch[-1][0].label())
        return report


def _split(items: list[_Candidates]) -> tuple[list[_Candidates], list[_Candidates]]:
    """The first kernels, with at most ``BATCH_FORMS`` forms (one kernel at least), and the rest."""
    count = total = 0
    for _, found in items:
        total += len(found)
        if count and total > BATCH_FORMS:
            break
        count += 1
    return items[:count], items[count:]


def _search_batch(
    batch: Sequence[_Candidates],
    builder: Builder,
    judge: Judge,
    scratch: Path,
    report: SearchReport,
    seed: int,
) -> list[tuple[KernelSpec, Searched]]:
    """Build all forms of a few kernels, then race them on a quiet machine."""
    start = time.perf_counter()
    jobs: dict[str, list[BuildJob]] = {}
    for spec, found in batch:
        copies, digest = copies_for(spec), spec.digest()
        jobs[digest] = [
            # The default is built as it ships without a choice.
            BuildJob(spec, scratch / f"{digest}-{number}.so", copies, choice if number else None)
            for number, choice in enumerate(found)
        ]
    broken: dict[Path, str] = {}
    for job, failure in builder.build([job for group in jobs.values() for job in group]):
        if failure is not None:
            broken[job.path] = failure
            _drop(report, job, failure)
    report.build_s += time.perf_counter() - start
    start = time.perf_counter()
    results: list[tuple[KernelSpec, Searched]] = []
    for spec, found in batch:
        group = [job for job in jobs[spec.digest()] if job.path not in broken]
        labels = {job.path: c.label() for job, c in zip(jobs[spec.digest()], found, strict=True)}
        # A default that cannot be built is for the profiler to report.
        result = Searched(spec.label(), None, measured_at=timestamp())
        if len(group) > 1 and group[0].choice is None:
            result = _judge(spec, group, labels, judge, report, seed)
        results.append((spec, result))
        report.searched += 1
        for job in group:
            for path in (job.path, job.path.with_suffix(".json")):
                path.unlink(missing_ok=True)
    report.time_s += time.perf_counter() - start
    return results


def _judge(
    spec: KernelSpec,
    group: Sequence[BuildJob],
    labels: dict[Path, str],
    judge: Judge,
    report: SearchReport,
    seed: int,
) -> Searched:
    """The fastest form that gives the default's result, if it is faster by more than noise."""
    try:
        samples = judge.race(group, seed)
    except MeasureError as error:
        _drop(report, group[0], f"the race failed: {error.message}")
        return Searched(spec.label(), None, measured_at=timestamp())
    medians = [statistics.median(values) for values in samples]
    timed = {labels[job.path]: median for job, median in zip(group, medians, strict=True)}
    for i in faster(samples):
        job, choice = group[i], group[i].choice
        assert choice is not None
        try:
            error = judge.error(group[0], job, seed)
        except MeasureError as failure:
            _drop(report, job, f"the check failed: {failure.message}")
            continue
        if not error <= TOLERANCE.get(choice.rule, 1e-4):
            _drop(report, job, f"differs from the default by {error:.1e} of the largest output")
            continue
        report.gains[spec.label()] = medians[0] / medians[i]
        return Searched(spec.label(), choice, timed, error, timestamp())
    return Searched(spec.label(), None, timed, 0.0, timestamp())


def _drop(report: SearchReport, job: BuildJob, reason: str) -> None:
    name = f"{job.spec.label()} [{job.choice.label() if job.choice else 'default'}]"
    report.failures[name] = reason
    _log.warning("form dropped: %s: %s", name, reason)


def search_provenance(target: Target, pipeline: str, seed: int, device: Device) -> dict[str, Any]:
    """Who searched, for what and on what: kept in ``choices.json``."""
    return {
        "target": target.model_dump(mode="json"),
        "pipeline": pipeline,
        "device": device.to_dict(),
        "versions": versions(),
        "seed": seed,
        "created": timestamp(),
    }
