"""Bookkeeping of the scaling benchmark; nothing here depends on how fast anything is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.analysis_scale import generated, measure, summary


def test_generated_networks_have_the_layers_they_say() -> None:
    model = generated(50)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    assert len(layers) == 52
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 4, 6, 6)


def test_a_row() -> None:
    row = measure("generated 10", 1)
    assert row["layers"] == 10
    assert row["groups"] > 2
    assert row["capture_s"] + row["analyse_s"] == pytest.approx(row["seconds"])


def test_exponent_of_known_rows() -> None:
    rows = [{"network": f"generated {n}", "layers": n, "seconds": 0.01 * n**1.5} for n in (10, 100, 1000)]
    found = summary([*rows, {"network": "resnet50", "layers": None, "seconds": 2.0}])
    assert found["exponent"] == pytest.approx(1.5)
    assert found["seconds_resnet50"] == 2.0
    assert found["seconds_swin_b"] is None
    assert found["seconds_1000_layers"] == pytest.approx(0.01 * 1000**1.5)
