"""Planning for a device that cannot be reached, from its table alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from hwprune.errors import MeasureError
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.carry.networks import CarriedNetworks
from hwprune.measure.carry.pack import network_digest
from hwprune.measure.carry.wanted import lacking, read_wanted, write_wanted
from hwprune.measure.stats import Summary, summarise
from hwprune.planner.workbench import Workbench
from hwprune.solve.fingerprint import model_fingerprint
from hwprune.solve.plan import Plan

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CarriedWorkbench(Workbench):
    """A workbench whose device is away. What a plan would like to be measured is written down."""

    @staticmethod
    def of(bench: Workbench) -> CarriedWorkbench:
        """The same model, target and table."""
        return CarriedWorkbench(**{field.name: getattr(bench, field.name) for field in fields(Workbench)})

    def needed(self) -> list[KernelSpec]:
        """Kernels without which there is no plan: the grid of every family, and the dense network."""
        return [*self.model.specs(), *self.model.kernels(self.dense_widths())]

    def dense_widths(self) -> dict[str, int]:
        """Full size of every group."""
        return {group: found.widths[-1] for group, found in self.widths.items()}

    def planned(self, plan: Plan) -> Program:
        """The network that a plan makes, for timing.

        Raises
        ------
        PlanError
            The plan was made for another model.
        """
        sizes = {group.name: group.size for group in self.deps.groups}
        plan.check(sizes, model_fingerprint(self.captured.model))
        return self.program_at(plan.widths, frozenset(plan.removed))

    def wanted(self) -> list[KernelSpec]:
        """What the next bundle should hold: kernels needed for a plan, or that one has asked for."""
        if not (self.directory / "manifest.json").is_file():
            return list({spec.digest(): spec for spec in self.needed()}.values())
        asked = [*self.needed(), *read_wanted(self.directory)]
        return lacking(asked, self.load_table(), untrusted=self.model.untrusted)

    def measure_kernels(self, specs: Sequence[KernelSpec]) -> LatencyTable:
        """The table as it is. Kernels that it lacks are written down for the next bundle.

        Raises
        ------
        MeasureError
            It lacks a kernel without which there is no plan.
        """
        table = self.load_table()
        missing = lacking(specs, table, untrusted=self.model.untrusted)
        if not missing:
            return table
        asked = lacking([*read_wanted(self.directory), *missing], table, untrusted=self.model.untrusted)
        write_wanted(self.directory, asked)
        needed = {spec.digest() for spec in self.needed()}
        vital = [spec for spec in missing if spec.digest() in needed]
        if vital:
            raise MeasureError(
                f"the table of device {self.site.name} lacks {len(vital)} kernels that a plan needs, such as"
                f" '{vital[0].label()}'",
                hint=f"pack them with `hwprune carry pack --device {self.site.name} --missing`, run the"
                " bundle on the device and read its results with `hwprune carry read`",
            )
        _log.warning(
            "%d kernels that would refine this plan are not in the table of device %s; the plan does without"
            " them (hwprune carry pack --missing takes them along)",
            len(missing),
            self.site.name,
        )
        return table

    def time_networks(self, programs: Mapping[str, Program]) -> dict[str, Summary]:
        """Networks that the device has timed. Where it has not, the sum of kernels stands in.

        Raises
        ------
        KernelMissError
            A network was not timed, nor were all of its kernels.
        """
        known = CarriedNetworks.load(self.directory).networks
        choices, table = ChoiceTable.load(self.directory), self.load_table()
        found: dict[str, Summary] = {}
        for name, program in programs.items():
            network = known.get(network_digest(program, choices))
            if network is not None and (network.disturbed is None or self.model.untrusted):
                found[name] = network.summary()
                continue
            _log.warning(
                "the %s network was not timed on device %s: the sum of its kernels stands in"
                " (hwprune carry pack --network takes it along)",
                name,
                self.site.name,
            )
            found[name] = summarise([self.model.sum_of([step.spec for step in program.steps], table)])
        return found
