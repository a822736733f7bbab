"""The profiler: builds and times kernels and writes them to a latency table.

Building and timing never overlap: a batch is built on all cores, then timed on a quiet machine.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.location import is_shipped
from hwprune.latency.manifest import MANIFEST_NAME
from hwprune.latency.rows import OK, Row
from hwprune.latency.table import LatencyTable
from hwprune.measure.backend import pipeline_hash
from hwprune.measure.build import Builder
from hwprune.measure.guard import load_warning
from hwprune.measure.outcome import ProfileReport
from hwprune.measure.provenance import compiler_versions, new_manifest
from hwprune.measure.record import unfinished
from hwprune.measure.runners.base import Runner
from hwprune.measure.site import LocalSite, Site
from hwprune.measure.stopping import QUICK, MeasureProfile
from hwprune.measure.sweep import Progress, Sweep
from hwprune.measure.table_writer import TableWriter
from hwprune.measure.toolchain import own_directory
from hwprune.measure.values import Checker
from hwprune.measure.workshop import Workshop
from hwprune.target import Target

BATCH = 32
#: A sweep of this many kernels or fewer is part of a larger job.
FEW = 16

_log = logging.getLogger(__name__)


def profile(
    specs: Sequence[KernelSpec],
    target: Target,
    directory: Path,
    *,
    profile: MeasureProfile = QUICK,
    site: Site | None = None,
    workshop: Workshop | None = None,
    builder: Builder | None = None,
    runner: Runner | None = None,
    checker: Checker | None = None,
    pipeline: str | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    batch: int = BATCH,
    retries: int = 1,
) -> ProfileReport:
    """Measure kernels into a table; what the table has already is skipped.

    Parameters
    ----------
    specs
        Kernels; duplicates are measured once.
    target
        What they are built for.
    directory
        The table, new or to be continued. Rows that are failed, untrusted or lack passes are
        measured again, and so are those timed with other choices than its ``choices.json`` holds now.
    profile
        How much care to take.
    site
        Where kernels run. Default: this machine.
    workshop
        Workers that are kept from sweep to sweep, for this target at its own site, instead of ``site``,
        ``builder``, ``runner`` and ``checker``. Default: workers for this sweep alone.
    builder, runner, pipeline
        How kernels are built and run, and the pipeline hash of the builder. Default: those of the
        site and of ``hwprune.compile``.
    checker
        Compares what kernels return with a reference. Default: the site's, if the profile wants it and the
        builder is the site's.
    progress
        Called with (done, total, label of the kernel) after each kernel, and before a batch is
        built with a label that says so.
    seed
        Of the order of measurement.
    batch
        Kernels built before the machine is left quiet for timing.
    retries
        How many disturbed passes over a batch are repeated before its rows are called untrusted.

    Returns
    -------
    ProfileReport
        Counts, failures, warnings, seconds. Kernels that cannot be built, crash, hang or return wrong
        values are in its failures; they never end the sweep.

    Raises
    ------
    MeasureError
        The table is being written by someone else, or not even the sentinel kernel can be built
        and run, so that no kernel could.
    TableError
        The directory holds a table of another pipeline, unit or device, or a damaged one.
    KeyboardInterrupt
        After everything that was measured has been saved; call again to go on.
    """
    with ExitStack() as stack:
        if workshop is None:
            site = site or LocalSite()
            workshop = Workshop(site, target, builder=builder, runner=runner, checker=checker)
        stack.enter_context(workshop)
        stack.callback(workshop.let_go)
        site, runner = workshop.site, workshop.runner
        if checker is None and profile.check_values:
            checker = workshop.checker
        device = site.device()
        ours = pipeline is None
        if pipeline is None:
            pipeline = pipeline_hash(target)
        manifest = new_manifest(
            target, device, pipeline, runner.unit, runner.provenance, seed, profile, site.reached()
        )
        unique = list({spec.digest(): spec for spec in specs}.values())
        if is_shipped(directory) and (directory / MANIFEST_NAME).is_file():
            table = LatencyTable.load(directory, pipeline=pipeline, unit=runner.unit, device=device.slug)
            if all(_done(table.get(spec)) for spec in unique):
                return ProfileReport(directory, len(unique), len(unique))
        writer = stack.enter_context(TableWriter(own_directory(directory), manifest))
        writer.compact()  # what a sweep that was cut off has left
        choices = ChoiceTable.load(writer.directory)
        todo = [spec for spec in unique if not _done(writer.get(spec))]
        report = ProfileReport(writer.directory, len(unique), len(unique) - len(todo))
        if not todo:
            return report
        if ours:
            writer.identify(compiler_versions(str(target.tvm.get("kind"))))
        warning = load_warning(device.cores, device.load[0])
        if warning:
            report.warnings.append(warning)
            # A plan asks for a few kernels more again and again; that needs to be said only once.
            _log.log(logging.WARNING if len(todo) > FEW else logging.INFO, warning)
        scratch = stack.enter_context(scratch_directory(writer.directory))
        if checker is None and profile.check_values:
            report.warnings.append("what the kernels return was not compared with PyTorch")
        sweep = Sweep(
            writer,
            workshop,
            checker,
            profile,
            report,
            scratch,
            progress,
            len(todo),
            retries,
            choices,
            seed,
        )
        try:
            sweep.prepare_sentinel()
            # Neighbouring widths far apart in time: slow drift becomes noise, not a false staircase.
            order = np.random.default_rng(seed).permutation(len(todo))
            for start in range(0, len(todo), batch):
                sweep.run([todo[i] for i in order[start : start + batch]])
        except KeyboardInterrupt:
            message = (
                f"interrupted: {report.measured} of {len(todo)} kernels are saved in {writer.directory}; "
                "run the same command to go on"
            )
            _log.warning(message)
            raise KeyboardInterrupt(message) from None
        finally:
            writer.compact()
        if report.failures:
            _log.warning("%d of %d kernels failed and were left out", len(report.failures), len(todo))
        return report


def _done(row: Row | None) -> bool:
    return row is not None and row.status == OK and not unfinished(row)


@contextmanager
def scratch_directory(directory: Path) -> Generator[Path]:
    """Where libraries are built: inside the table, so that the next sweep clears what a kill left."""
    for old in directory.glob(".build-*"):
        shutil.rmtree(old, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=".build-", dir=directory))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
