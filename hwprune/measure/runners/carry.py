"""A device that bundles are carried to: nothing runs there from here, its table is all there is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from hwprune.compile import pipeline_hash
from hwprune.errors import MeasureError, TableError, UsageError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.location import find_table, relative_directory, tables_root
from hwprune.latency.manifest import MANIFEST_NAME, read_manifest
from hwprune.latency.program import Program
from hwprune.measure.build import Builder
from hwprune.measure.device import Device
from hwprune.measure.judge import Judge
from hwprune.measure.runners.base import Runner
from hwprune.measure.stats import Summary
from hwprune.measure.stopping import MeasureProfile
from hwprune.measure.values import Checker
from hwprune.target import Target


class CarriedSite:
    """A device that is known by its table alone. Whatever would have to run there is refused.

    Parameters
    ----------
    slug
        Name of the device, as ``hwprune carry read`` prints it.
    target
        What its kernels were built for.
    tables
        Root of all tables; None: the user's, then the shipped ones.

    Raises
    ------
    TableError
        There is no table of that device for this target and code generator; the hint names those
        that there are.
    """

    shared = True

    def __init__(self, slug: str, target: Target, tables: Path | None = None) -> None:
        self.name = slug
        self.directory = _table_of(slug, target, tables)
        self._device = Device.from_dict(read_manifest(self.directory).device)

    def require(self, target: Target) -> None:
        """See :class:`hwprune.measure.site.Site`."""
        self._refuse(f"target '{target.name}' cannot be timed")

    def device(self) -> Device:
        """See :class:`hwprune.measure.site.Site`."""
        return self._device

    def reached(self) -> Mapping[str, str]:
        """See :class:`hwprune.measure.site.Site`."""
        return {"runner": "carry"}

    def builder(self, target: Target) -> Builder:
        """See :class:`hwprune.measure.site.Site`."""
        self._refuse("nothing can be built to be run at once")

    def checker(self, target: Target) -> Checker | None:
        """See :class:`hwprune.measure.site.Site`: a bundle's kernels were checked when it was packed."""
        return None

    def runner(self, target: Target) -> Runner:
        """See :class:`hwprune.measure.site.Site`."""
        self._refuse("kernels cannot be timed")

    def judge(self, target: Target) -> AbstractContextManager[Judge]:
        """See :class:`hwprune.measure.site.Site`."""
        raise UsageError(
            f"forms of kernels cannot be searched for on device {self.name}: it cannot be reached",
            hint="leave out --search and --tune",
        )

    def build_network(
        self, program: Program, target: Target, path: Path, choices: ChoiceTable | None = None
    ) -> None:
        """See :class:`hwprune.measure.site.Site`."""
        self._refuse("networks cannot be timed")

    def time_networks(
        self, libraries: Mapping[str, Path], target: Target, *, profile: MeasureProfile, seed: int = 0
    ) -> dict[str, Summary]:
        """See :class:`hwprune.measure.site.Site`."""
        self._refuse("networks cannot be timed")

    def _refuse(self, what: str) -> NoReturn:
        raise MeasureError(
            f"{what} on device {self.name} from here: it cannot be reached",
            hint=f"pack what is missing with `hwprune carry pack --device {self.name} --missing`, run it on"
            " the device, and read the results with `hwprune carry read`",
        )


def carried_directory(slug: str, target: Target, tables: Path | None = None) -> Path:
    """Where the table of a device lies, or will lie when its first results are read."""
    pipeline = pipeline_hash(target)
    place = (tables or tables_root()) / relative_directory(target, pipeline, slug)
    if tables is None:
        return find_table(target, pipeline, slug) or place
    return place


def _table_of(slug: str, target: Target, tables: Path | None) -> Path:
    directory = carried_directory(slug, target, tables)
    if (directory / MANIFEST_NAME).is_file():
        return directory
    others: list[str] = []
    for path in sorted(directory.parent.glob(f"*/{MANIFEST_NAME}")):
        found = read_manifest(path.parent)
        threads = found.target.get("threads")
        others.append(f"{found.device.get('slug')} (pipeline {found.pipeline}, {threads} threads)")
    raise TableError(
        f"there is no table of device {slug} for target '{target.name}', pipeline {pipeline_hash(target)} and"
        f" {target.threads} threads at {directory}",
        hint=(f"tables of this target: {'; '.join(others)}; or " if others else "")
        + "measure there: hwprune carry pack, run.py on the device, hwprune carry read",
    )
