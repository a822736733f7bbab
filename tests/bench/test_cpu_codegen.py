"""Bookkeeping of the benchmark against the peers; nothing here depends on how fast anything is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.cpu_codegen import kept_rows, summary
from bench.cpu_models import float64_error, prune_randomly
from bench.cpu_row import FIGURES, Setting, one_row
from hwprune.compile import pipeline_hash
from hwprune.target import load_target
from tests.measure.fakes import FAST

HOST = load_target("host", threads=1)
OPTIONS = argparse.Namespace(
    search=False, seed=0, no_kernels=False, no_tvm_default=False, out=Path("nowhere.json")
)


def row(model: str, threads: int, **figures: Any) -> dict[str, Any]:
    return dict.fromkeys(FIGURES) | {"model": model, "threads": threads} | figures


def test_summary_of_known_rows() -> None:
    found = summary(
        [
            row("a", 1, ratio=0.5, compile_s=3.0, max_rel_error=1e-6, max_rel_error_pruned=3e-6),
            row("b", 1, ratio=2.0, compile_s=9.0, max_rel_error=2e-6, search_s=4.0),
            row("c", 1, error="no"),
            row("a", 2, ratio=0.9, ratio_vs_ort=4.0),
            row("b", 2, ratio=0.4, ratio_vs_ort=1.0),
            row("c", 2, error="no"),
        ],
        100.0,
    )
    assert found == {
        "geomean_1t": pytest.approx(1.0),
        "min_1t": 0.5,
        "geomean_2t": pytest.approx(0.6),
        "min_2t": 0.4,
        "geomean_vs_ort_2t": pytest.approx(2.0),
        "min_vs_ort_2t": 1.0,
        "compile_s_max": 9.0,
        "search_s_max": 4.0,
        "max_rel_error": 3e-6,
        "fma_peak_gflops_1t": 100.0,
        "not_compiled": ["c"],
    }


def test_resume_keeps_only_what_the_same_code_made(tmp_path: Path) -> None:
    mine = {"pipeline": pipeline_hash(HOST), "searched": False}
    rows = [
        row("good", 1, made_by=mine),
        row("failed", 1, made_by=mine, error="no"),
        row("old", 1, made_by={**mine, "pipeline": "000000000000"}),
        row("searched", 1, made_by={**mine, "searched": True}),
        row("other", 2, made_by=mine),
    ]
    out = tmp_path / "result.json"
    out.write_text(json.dumps({"rows": rows}))
    options = argparse.Namespace(out=out, search=False)
    assert [r["model"] for r in kept_rows(options, [HOST])] == ["good"]


class Shrinking(nn.Module):
    """Something that no pipeline of ours has a kernel for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)


def test_a_model_that_cannot_be_compiled_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.cpu_row.make", lambda *_: (Shrinking(), (torch.randn(1, 3, 8, 8),)))
    found = one_row("odd", HOST, Setting(OPTIONS, FAST, tmp_path / "tables", tmp_path, 100.0))
    assert found["error"].startswith("UnsupportedOperatorError: ")
    assert "svd" in found["error"]
    assert found["ratio"] is None
    assert summary([found], 100.0)["not_compiled"] == ["odd"]


def small_net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 32, 1), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)).eval()


@pytest.mark.usefixtures("loaded_once")
def test_a_whole_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    monkeypatch.setattr("bench.cpu_row.make", lambda *_: (small_net(), (x,)))
    monkeypatch.setattr("bench.cpu_row.SLOW", FAST)
    monkeypatch.setattr("bench.cpu_row.QUICK", FAST)
    found = one_row("small", HOST, Setting(OPTIONS, FAST, tmp_path / "tables", tmp_path, 100.0))
    assert found["error"] is None
    assert not found["absent"]
    assert set(found["intervals_ms"]) == {"ours", "ort", "openvino", "tvm_default"}
    assert found["ratio"] == min(found["ort_ms"], found["openvino_ms"]) / found["ours_ms"]
    assert found["max_rel_error"] < 1e-5
    assert found["max_rel_error_pruned"] < 1e-5
    assert [k["rule"] for k in found["kernels"]] == ["conv", "conv", "reduce", "linear"]
    assert sum(k["share"] for k in found["kernels"]) == pytest.approx(1.0)
    assert all(k["of_peak"] == k["gflop_per_s"] / 100.0 for k in found["kernels"])
    json.dumps(found)


def test_random_pruning_is_aligned_and_smaller() -> None:
    x = (torch.randn(1, 3, 8, 8),)
    target = load_target("x86-64-avx512")
    seen = set()
    for seed in range(8):
        smaller = prune_randomly(small_net(), x, target, seed)
        assert smaller is not None
        widths = [m.out_channels for m in smaller.modules() if isinstance(m, nn.Conv2d)]
        assert all(w % 16 == 0 for w in widths)
        seen.add(tuple(widths))
    assert len(seen) > 1
    assert prune_randomly(nn.Sequential(nn.Conv2d(3, 8, 1)), x, target, 0) is None


def test_errors_are_told_against_float64() -> None:
    model, x = small_net(), (torch.randn(1, 3, 8, 8),)
    with torch.no_grad():
        right = model(*x).numpy()
        scale = abs(model.double()(x[0].double()).numpy()).max()
    assert float64_error(small_net(), x, [right]) < 1e-6
    right = right.copy()
    right[0, 1] += 0.01 * scale
    assert float64_error(small_net(), x, [right]) == pytest.approx(0.01, rel=1e-3)
