"""Planning for a device that is away, from what it has measured."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hwprune import api
from hwprune.errors import MeasureError, PlanError, TableError, UsageError
from hwprune.measure.carry.networks import CarriedNetwork, CarriedNetworks
from hwprune.measure.carry.record import ReadReport, record
from hwprune.measure.carry.results import KernelResult, open_carried
from hwprune.measure.carry.wanted import read_wanted
from hwprune.measure.runners.carry import CarriedSite
from hwprune.measure.site import Site
from hwprune.target import Target
from tests.measure.carry.conftest import MINIMUM, STEPS, Packed
from tests.small import SHAPE, Small


@pytest.fixture
def read(measured: Path, tmp_path: Path) -> ReadReport:
    return record(open_carried(measured), tmp_path)


def plan(target: Target, tables: Path, slug: str) -> api.Planned:
    site: Site = CarriedSite(slug, target, tables)
    inputs = torch.zeros(SHAPE)
    return api.plan(Small(), inputs, target, "99%", tables=tables, site=site, steps=STEPS, minimum=MINIMUM)


def test_plan_needs_nothing_but_the_table(
    packed: Packed, read: ReadReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_process(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("hwprune.measure.process.WorkerProcess._start", no_process)
    planned = plan(packed.target, tmp_path, read.device)
    assert planned.plan.dense_ns == read.networks_ns["dense"], "the carried network is the dense latency"
    assert planned.loop.measured_ns is None and planned.plan.predicted_ns <= planned.plan.budget_ns
    assert planned.plan.table == read.directory.name


def test_network_of_a_plan_can_be_packed_and_another_models_plan_cannot(
    packed: Packed, read: ReadReport, tmp_path: Path
):
    made = plan(packed.target, tmp_path, read.device).plan
    program = packed.bench.planned(made)
    assert [step.spec for step in program.steps] == packed.bench.model.kernels(made.widths)
    with pytest.raises(PlanError, match="another model"):
        packed.bench.planned(made.model_copy(update={"fingerprint": "0" * 64}))


def test_without_the_network_the_sum_of_kernels_stands_in(
    packed: Packed, read: ReadReport, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (read.directory / "networks.json").unlink()
    with caplog.at_level(logging.WARNING):
        planned = plan(packed.target, tmp_path, read.device)
    assert planned.plan.dense_ns == pytest.approx(planned.loop.dense_sum_ns)
    assert "the dense network was not timed" in caplog.text


def test_kernels_that_a_plan_lacks_are_asked_for_and_packed_next(
    packed: Packed, read: ReadReport, tmp_path: Path
):
    with pytest.raises(MeasureError, match=r"lacks .* kernels that a plan needs") as error:
        # Another input size: other kernels.
        api.plan(
            Small(),
            torch.zeros(1, 1, 12, 12),
            packed.target,
            tables=tmp_path,
            site=CarriedSite(read.device, packed.target, tmp_path),
            steps=STEPS,
            minimum=MINIMUM,
        )
    assert "carry pack" in (error.value.hint or "") and "--missing" in (error.value.hint or "")
    wanted = read_wanted(read.directory)
    assert wanted and not {spec.digest() for spec in wanted} & {s.digest() for s in packed.bench.needed()}


def test_device_without_a_table_is_refused_with_those_that_have_one(
    packed: Packed, read: ReadReport, tmp_path: Path
):
    with pytest.raises(TableError, match="no table of device elsewhere") as error:
        CarriedSite("elsewhere", packed.target, tmp_path)
    assert read.device in (error.value.hint or "")


def test_site_refuses_to_run_anything(packed: Packed, read: ReadReport, tmp_path: Path):
    site: Site = CarriedSite(read.device, packed.target, tmp_path)
    assert site.device().slug == read.device
    for refused in (site.require, site.runner, site.builder):
        with pytest.raises(MeasureError, match="cannot be reached") as error:
            refused(packed.target)
        assert f"hwprune carry pack --device {read.device} --missing" in (error.value.hint or "")
    with pytest.raises(UsageError, match="cannot be searched"):
        site.judge(packed.target)


def test_disturbed_timings_replace_no_good_rows(measured: Path, tmp_path: Path):
    carried = open_carried(measured)
    kernels = carried.results.kernels
    good = [k.model_copy(update={"parts": k.parts or k.spoiled, "spoiled": ()}) for k in kernels]
    spoiled = [k.model_copy(update={"parts": (), "spoiled": k.parts, "why": "noise"}) for k in good]

    def read(kernels: list[KernelResult]) -> ReadReport:
        results = carried.results.model_copy(update={"kernels": tuple(kernels)})
        return record(replace(carried, results=results), tmp_path)

    first = read(spoiled)
    assert first.untrusted >= len(good) and f"{len(good)} kernels are untrusted: noise" in first.warnings
    read(good)
    text = (first.directory / "table.csv").read_text()
    assert "noise" not in text
    assert read(spoiled).kept >= len(good)
    assert (first.directory / "table.csv").read_text() == text


def test_disturbed_network_replaces_none_that_was_not():
    def network(disturbed: str | None, ns: float) -> CarriedNetwork:
        return CarriedNetwork(
            digest="d", name="dense", measured_at="", bundle="", disturbed=disturbed, samples_ns=(ns,)
        )

    known = CarriedNetworks({}).with_networks([network("noise", 1.0)])
    known = known.with_networks([network(None, 2.0)])
    assert known.with_networks([network("noise", 3.0)]).networks["d"].samples_ns == (2.0,)
    assert known.with_networks([network(None, 4.0)]).networks["d"].samples_ns == (4.0,)
