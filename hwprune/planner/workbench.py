"""Everything that is known about one model on one target, and the tools to find out more."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.fused import FusedGraph
from hwprune.latency.fusion import fuse
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.manifest import MANIFEST_NAME
from hwprune.latency.predict import LatencyModel
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.backend import backend_of, pipeline_hash
from hwprune.measure.outcome import ProfileReport
from hwprune.measure.profile import profile as profile_kernels
from hwprune.measure.search import search as search_forms
from hwprune.measure.site import LocalSite, Site
from hwprune.measure.sites import site_for
from hwprune.measure.stats import Summary
from hwprune.measure.stopping import PROFILES, TABLE, MeasureProfile
from hwprune.measure.toolchain import toolchain_directory
from hwprune.measure.workshop import Workshop
from hwprune.planner.network import NOTHING, Removable
from hwprune.planner.removable import RemovableBlocks, removable_blocks
from hwprune.planner.widths import GroupWidths, group_widths
from hwprune.surgery.blocks import bypassed, choose_blocks
from hwprune.target import Target

#: Reports long work: what, how much is done, of how much.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Part:
    """A network without some of its blocks."""

    fused: FusedGraph
    model: LatencyModel


@dataclass(frozen=True)
class Workbench:
    """A captured model on a target.

    ``tables`` is the root of all latency tables (None: the user's, or the shipped ones) and ``slug``
    the device's name there; ``widths`` says what each group may
    become; ``model`` prices any choice of them; ``site`` is where everything is timed.
    """

    captured: Captured
    deps: Dependencies
    target: Target
    fused: FusedGraph
    widths: Mapping[str, GroupWidths]
    model: LatencyModel
    pipeline: str
    tables: Path | None
    slug: str
    profile: MeasureProfile
    seed: int
    progress: Progress
    search: bool = False
    site: Site = field(default_factory=LocalSite)
    #: What the sweeps of :meth:`measure_kernels` did, in their order.
    sweeps: list[ProfileReport] = field(default_factory=list[ProfileReport])
    #: The network without some of its blocks, as far as it was asked for.
    parts: dict[frozenset[str], Part] = field(default_factory=dict[frozenset[str], Part], repr=False)

    @staticmethod
    def open(
        captured: Captured,
        deps: Dependencies,
        target: Target,
        *,
        profile: MeasureProfile,
        minimum: float = 0.1,
        steps: int = 8,
        tables: Path | None = None,
        seed: int = 0,
        untrusted: bool | None = None,
        search: bool = False,
        site: Site | None = None,
        widths: Mapping[str, GroupWidths] | None = None,
        progress: Progress = silent,
    ) -> Workbench:
        """Fuse the model, choose the widths on offer, and find the place of its table.

        ``untrusted`` admits kernels that were timed while the machine was disturbed; by default
        only the ``quick`` profile, which is for busy machines, does. With ``search`` every kernel is
        searched for its fastest form before it is measured. ``site`` is by default the one that
        the target and the environment ask for. ``widths`` are by default all that suit the target.
        """
        if untrusted is None:
            untrusted = profile.name == "quick"
        fused = fuse(captured.graph)
        if widths is None:
            widths = group_widths(deps, captured.graph.graph, target, minimum=minimum, steps=steps)
        families = fused.families(deps.extents)
        domains = {name: found.widths for name, found in widths.items()}
        model = LatencyModel(families, domains, untrusted=untrusted)
        pipeline = pipeline_hash(target)
        site = site or site_for(target)
        return Workbench(
            captured,
            deps,
            target,
            fused,
            widths,
            model,
            pipeline,
            tables,
            site.device().slug,
            profile,
            seed,
            progress,
            search,
            site,
        )

    @property
    def directory(self) -> Path:
        """Where its latency table lies or will lie: a shipped one moves when it grows."""
        return toolchain_directory(self.target, self.tables, self.slug)

    @cached_property
    def workshop(self) -> Workshop:
        """Workers of :meth:`measure_kernels`: inside ``with bench.workshop:`` they are kept between calls."""
        return Workshop(self.site, self.target)

    def measure_kernels(self, specs: Sequence[KernelSpec]) -> LatencyTable:
        """Bring the kernels that the table lacks into it, and return the table."""
        self.site.require(self.target)
        with self.workshop as workshop:
            if self.search:
                search_forms(
                    specs,
                    self.target,
                    self.directory,
                    seed=self.seed,
                    site=self.site,
                    builder=workshop.builder,
                    progress=lambda done, total, label: self.progress(f"search {label}", done, total),
                )
            done = profile_kernels(
                specs,
                self.target,
                self.directory,
                profile=self.profile,
                workshop=workshop,
                progress=lambda done, total, label: self.progress(f"profile {label}", done, total),
                seed=self.seed,
            )
        self.sweeps.append(done)
        return self.load_table()

    def load_table(self) -> LatencyTable:
        """The table as it is on disk, refused if another pipeline or device made it."""
        return LatencyTable.load(
            self.directory,
            pipeline=self.pipeline,
            unit=self.target.unit,
            device=self.slug,
        )

    def known_table(self) -> LatencyTable | None:
        """The table as far as it goes; None where nothing was measured, or all is to be searched first."""
        known = (self.directory / MANIFEST_NAME).is_file() and not self.search
        return self.load_table() if known else None

    @property
    def dense(self) -> Mapping[str, int]:
        """Full size of every group."""
        return self.deps.dense_widths

    @cached_property
    def blocks(self) -> RemovableBlocks:
        """Residual blocks that a plan may leave out, and why the others stay."""
        return removable_blocks(self.captured, self.deps, self.fused)

    @property
    def removable(self) -> tuple[Removable, ...]:
        """Residual blocks that a plan may leave out."""
        return self.blocks.removable

    def without(self, removed: frozenset[str]) -> LatencyModel:
        """Kernel families that are left when blocks are gone."""
        return self._part(removed).model

    def program_at(self, widths: Mapping[str, int], removed: frozenset[str] = NOTHING) -> Program:
        """The network at other widths and without some of its blocks, for timing."""
        part = self._part(removed)
        return part.fused.shape_program(part.model.families, widths)

    def _part(self, removed: frozenset[str]) -> Part:
        if not removed:
            return Part(self.fused, self.model)
        if removed not in self.parts:
            blocks = choose_blocks(self.blocks.blocks, sorted(removed))
            fused = fuse(bypassed(self.captured, blocks))
            families = fused.families(self.deps.extents)
            model = LatencyModel(families, self.model.domains, untrusted=self.model.untrusted)
            self.parts[removed] = Part(fused, model)
        return self.parts[removed]

    def time_networks(self, programs: Mapping[str, Program]) -> dict[str, Summary]:
        """Build programs through the shipping pipeline and time them end to end, interleaved.

        A plan stands or falls with this, so it takes at least the care of the ``table`` profile.
        """
        self.site.require(self.target)
        with tempfile.TemporaryDirectory(prefix="hwprune-") as scratch:
            libraries: dict[str, Path] = {}
            choices = ChoiceTable.load(self.directory)
            for number, (name, program) in enumerate(programs.items()):
                self.progress(f"build {name} network", number, len(programs))
                libraries[name] = Path(scratch) / f"{number}{backend_of(self.target).suffix}"
                self.site.build_network(program, self.target, libraries[name], choices)
            self.progress("time networks end to end", len(programs), len(programs))
            care = max(self.profile, TABLE, key=lambda profile: profile.rounds)
            return self.site.time_networks(libraries, self.target, profile=care, seed=self.seed)


def measure_profile(name: str) -> MeasureProfile:
    """A measurement profile by name.

    Raises
    ------
    UsageError
        Listing the profiles.
    """
    if name not in PROFILES:
        raise UsageError(f"unknown measurement profile '{name}'", hint=f"use one of {', '.join(PROFILES)}")
    return PROFILES[name]


def recorded(
    target: Target, tables: Path | None = None, site: Site | None = None
) -> tuple[Path, dict[str, float], ChoiceTable]:
    """What is on disk about kernels of ``target`` at a site (this machine), for looking only.

    Returns
    -------
    tuple
        The table's directory (it need not exist), median nanoseconds by kernel digest (disturbed
        rows included) and searched choices.

    Raises
    ------
    TableError
        There is a table, but it is damaged or of another pipeline or device.
    """
    pipeline = pipeline_hash(target)
    slug = (site or LocalSite()).device().slug
    directory = toolchain_directory(target, tables, slug)
    choices = ChoiceTable.load(directory)
    if not (directory / MANIFEST_NAME).is_file():
        return directory, {}, choices
    table = LatencyTable.load(directory, pipeline=pipeline, unit=target.unit, device=slug)
    return directory, {row.digest: row.median for row in table if row.failure is None}, choices
