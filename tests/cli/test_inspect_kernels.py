"""``hwprune inspect --kernels`` and ``--time``: rules, tilings, and shares from the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from hwprune.capture import capture
from hwprune.compile import pipeline_hash
from hwprune.latency.fusion import fuse
from hwprune.latency.table import LatencyTable
from hwprune.measure.profile import profile
from hwprune.planner.workbench import Workbench, recorded
from hwprune.target import load_target
from tests.cli.conftest import Command
from tests.conftest import price
from tests.measure.fakes import QUIET, InlineBuilder, InlineRunner
from tests.planner.fakes import row
from tests.planner.fakes import table as made_up

TARGET = load_target("x86-64-avx512")
ODD = ("tests.cli.test_inspect_kernels:Odd", "-i", "1x3x16x16", "-t", TARGET.name)


class Odd(nn.Module):
    """A network with an operator that no schedule rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 16, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cumsum(torch.relu(self.a(x)), 2)
        return self.c(torch.relu(self.b(y)))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """40, 20 and 10 us for the convolutions with 32, 16 and 8 outputs; nothing for the odd operator."""
    program = fuse(capture(Odd(), (torch.randn(1, 3, 16, 16),)).graph).program()
    specs = [step.spec for step in program.steps if len(step.spec.inputs) > 1]
    assert len(specs) == 3
    directory = recorded(TARGET, tmp_path / "measured")[0]
    pipeline = pipeline_hash(TARGET)
    profile(
        specs,
        TARGET,
        directory,
        profile=QUIET,
        builder=InlineBuilder(),
        runner=InlineRunner(),
        pipeline=pipeline,
    )
    return tmp_path / "measured"


def test_rules_and_fallbacks_are_listed(hw: Command) -> None:
    kernels = json.loads(hw("inspect", *ODD, "--kernels", "--json").out)["kernels"]
    assert [k["rule"] for k in kernels] == ["conv", "fallback", "conv", "conv"]
    assert [k["falls_back"] for k in kernels] == [False, True, False, False]
    assert kernels[0]["tiling"].endswith("of 16 (no overhang)")
    assert kernels[3]["tiling"].endswith("of 16 (100% overhang)")  # 8 channels in 16 lanes
    assert kernels[2]["gflop"] == (2 * 32 + 1) * 16 * 256 / 1e9
    assert kernels[0]["groups"] == ["a"]
    assert all(k["us"] is None and k["share"] is None for k in kernels)
    text = hw("inspect", *ODD, "--kernels").out
    assert "without a schedule rule: 1" in text
    assert "cumsum: fallback[aten.cumsum.default] 1x32x16x16" in text


def test_shares_come_from_the_table(hw: Command, table: Path) -> None:
    found = json.loads(hw("inspect", *ODD, "--time", "--tables", str(table), "--json").out)
    by_step = {k["step"]: k for k in found["kernels"]}
    assert {step: k["us"] for step, k in by_step.items()} == {
        "a": pytest.approx(40), "cumsum": None, "b": pytest.approx(20), "c": pytest.approx(10),
    }  # fmt: skip
    assert by_step["a"]["share"] == pytest.approx(4 / 7)
    assert by_step["b"]["gflop_per_s"] == pytest.approx(by_step["b"]["gflop"] / 20e-6)
    assert found["measured"] == 3
    assert found["fallback_share"] == 0.0
    text = hw("inspect", *ODD, "--time", "--tables", str(table)).out
    for part in ("57.1%", "28.6%", "14.3%", "3 of 4 kernels are in table", "hwprune profile adds them"):
        assert part in text


def test_without_a_table_nothing_has_a_share(hw: Command) -> None:
    found = json.loads(hw("inspect", *ODD, "--time", "--json").out)
    assert found["measured"] == 0
    assert found["fallback_share"] is None


def test_a_table_with_all_kernels_says_what_pruning_can_save(
    hw: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("tests.small:Small", "-i", "1x1x8x8", "-t", TARGET.name, "--time")
    assert "the table lacks kernels" in hw("inspect", *small).out

    def known(self: Workbench) -> LatencyTable:
        specs = [*self.model.specs(), *self.model.kernels(self.model.dense)]
        return made_up([row(spec, price(spec)) for spec in {s.digest(): s for s in specs}.values()])

    monkeypatch.setattr(Workbench, "known_table", known)
    found = json.loads(hw("inspect", *small, "--json").out)["verdict"]
    assert {kernel["name"] for kernel in found["kernels"]} >= {"stem.0", "a.0", "b.0"}
    assert 0.0 < found["saving"] < 1.0
    assert "pruning can save at most" in hw("inspect", *small).out
