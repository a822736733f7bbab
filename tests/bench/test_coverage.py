"""The coverage benchmark on small networks: what it calls exact, declined, wrong and failed."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.coverage import as_csv, kept_rows, run_one, summary
from bench.coverage_alive import enliven
from bench.coverage_one import cover_part, joined
from bench.coverage_peer import judge
from bench.coverage_zoo import Listed, Part, names
from hwprune.dependency import Dependencies
from hwprune.errors import VerificationError
from tests.nets import NETS

IMAGE = (torch.randn(1, 3, 8, 8),)


def part(module: nn.Module) -> Part:
    enliven(module, IMAGE, seed=0)
    return Part("", module, IMAGE)


def test_an_exact_row() -> None:
    row = cover_part(part(NETS["residual"]()), seed=0, ratio=0.5)
    assert row["status"] == "exact"
    assert row["max_rel_error"] < 1e-5 < 0.01 < row["effect"]
    assert row["parameters_after"] < 0.5 * row["parameters"]
    assert row["channels_prunable"] == row["channels"]
    assert (row["batch"], row["train"], row["form"]) == ("any", "", "class")
    assert 0 < row["capture_s"] <= row["analyse_s"]


def test_a_model_that_cannot_be_pruned_is_declined_with_the_reason() -> None:
    row = cover_part(part(nn.Sequential(nn.Conv2d(3, 8, 1))), seed=0, ratio=0.5)
    assert row["status"] == "declined"
    assert row["groups"] == 0


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_does_not_export() -> None:
    row = cover_part(part(_Branching()), seed=0, ratio=0.5)
    assert row["status"] == "not_exportable"
    assert "x.sum() > 0" in row["reason"]


def test_a_failed_verification_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(*_: Any) -> None:
        raise VerificationError("differs by 0.5")

    monkeypatch.setattr("bench.coverage_one.prune_model", lie)
    row = cover_part(part(NETS["plain"]()), seed=0, ratio=0.5)
    assert (row["status"], row["reason"]) == ("wrong", "differs by 0.5")


def test_another_model_than_the_masked_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(captured: Any, deps: Dependencies, keep: Any) -> tuple[nn.Module, None]:
        return captured.model, None

    monkeypatch.setattr("bench.coverage_one.prune_model", other)
    assert cover_part(part(NETS["plain"]()), seed=0, ratio=0.5)["status"] == "wrong"


def test_parts_are_one_row() -> None:
    rows = [
        {"status": "exact", "part": "backbone", "reason": "", "parameters": 10, "analyse_s": 2.0},
        {"status": "declined", "part": "head", "reason": "why", "parameters": 5, "analyse_s": 1.0},
    ]
    row = joined(rows)
    assert (row["status"], row["reason"], row["part"]) == ("exact", "head: why", "backbone+head")
    assert joined([*rows, {"status": "wrong", "part": "neck", "reason": "bad"}])["status"] == "wrong"
    assert (row["parameters"], row["analyse_s"]) == (15, 2.0)


def test_enlivened_weights_are_all_different() -> None:
    model = NETS["residual"]()
    enliven(model, IMAGE, seed=0)
    assert all(p.unique().numel() == p.numel() for p in model.parameters() if p.dim() == 1)
    assert not model.training
    with torch.no_grad():
        assert 0.01 < model(torch.randn(4, 3, 8, 8)).std() < 100


def _quick(zoo: str, name: str, seed: int, ratio: float) -> dict[str, Any]:
    if name == "dies":
        os._exit(7)
    if name == "computes":
        while True:
            pass
    if name == "hangs":
        time.sleep(60)
    if name == "raises":
        raise ValueError("no such thing")
    return {"status": "exact"}


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("good", "exact", None),
        ("dies", "failed", "the process ended with code 7"),
        ("computes", "failed", "not done after 1 s"),
        ("hangs", "failed", "not done after 1 s"),
        ("raises", "failed", "ValueError: no such thing"),
    ],
)
def test_processes(name: str, status: str, reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.coverage._PATIENCE", 3)
    options = argparse.Namespace(zoo="none", seed=0, ratio=0.5, timeout=1.0, memory=64.0)
    row = run_one(_quick, name, options)
    assert (row["status"], row.get("reason")) == (status, reason)


def test_summary_resume_and_csv(tmp_path: Path) -> None:
    rows = [
        {"model": "a", "status": "exact", "analyse_s": 3.0, "cut_s": 1.0, "channels": 10}
        | {"channels_prunable": 4, "batch": "any", "peer_status": "exact", "peer_s": 9.0},
        {"model": "b", "status": "declined", "reason": "odd, it is", "peer_status": "failed", "peer_s": 1.0},
        {"model": "c", "status": "failed"},
    ]
    found = summary(rows)
    assert {k: found[k] for k in ("models", "exact", "declined", "wrong", "failed", "not_exportable")} == {
        "models": 3,
        "exact": 1,
        "declined": 1,
        "wrong": 0,
        "failed": 1,
        "not_exportable": 0,
    }
    assert found["analyse_s_max"] == 3.0
    assert found["less_than_half_prunable"] == ["a"]
    assert (found["seconds_both_done"], found["peer_seconds_both_done"]) == (4.0, 9.0)
    assert (found["peer_exact"], found["peer_failed"]) == (1, 1)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": rows}))
    assert list(kept_rows(path, ["failed"])) == ["a", "b"]
    lines = as_csv(rows).splitlines()
    assert len(lines) == 4
    assert '"odd, it is"' in lines[2]


def test_the_zoo_lists_models_of_every_kind() -> None:
    listed = names("torchvision")
    assert {"resnet18", "raft_small", "swin3d_t", "lraspp_mobilenet_v3_large", "ssd300_vgg16"} <= set(listed)
    assert len(listed) == 99
    assert len(names("timm")) >= 87


def test_lists_are_called_with_tensors() -> None:
    class Sum(nn.Module):
        def forward(self, maps: list[Tensor]) -> Tensor:
            return maps[0] + maps[1]

    assert Listed(Sum())(torch.ones(1), torch.ones(1)).item() == 2


def test_the_peers_cut_is_judged_by_what_layers_no_longer_read() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    smaller = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    kept = [0, 1, 2, 4, 5, 7]
    with torch.no_grad():
        smaller[0].weight.copy_(model[0].weight[kept])
        smaller[0].bias.copy_(model[0].bias[kept])
        smaller[2].weight.copy_(model[2].weight[:, kept])
        smaller[2].bias.copy_(model[2].bias)
    whole = Part("", model, IMAGE)
    assert judge(whole, smaller, {"2": {3, 6}}, [])["status"] == "exact"
    assert judge(whole, smaller, {"2": {3, 5}}, [])["status"] == "wrong"
    assert judge(whole, smaller, {"2": {3, 5}}, ["LayerNorm"])["status"] == "unjudged"
    assert judge(whole, nn.Conv2d(3, 2, 1), {"2": {3, 6}}, [])["status"] == "failed"
