"""The quickstart: its data, its network, and that its stages are joined up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import hwprune
from hwprune.errors import ArtifactError
from hwprune.measure.compare import Comparison, Ratio, Standing
from hwprune.measure.stats import Summary
from hwprune.planner.workbench import Progress
from hwprune.quickstart import digits
from hwprune.quickstart import run as module
from hwprune.quickstart.network import DigitsNet
from hwprune.repair import evaluate_accuracy
from hwprune.target import Target, load_target


def test_digits_are_split_by_class_without_overlap():
    train, test = digits.load_digits_split(0)
    assert (len(train), len(test)) == (1437, 360)
    images, labels = test.tensors
    assert images.shape == (360, 1, 32, 32)
    assert images.dtype == torch.float32
    counts = Counter(labels.tolist())
    assert sorted(counts) == list(range(10))
    assert max(counts.values()) - min(counts.values()) <= 2
    assert abs(float(train.tensors[0].mean())) < 0.1
    assert abs(float(train.tensors[0].std()) - 1) < 0.2
    seen = {image.numpy().tobytes() for image in train.tensors[0]}
    assert not any(image.numpy().tobytes() in seen for image in images)


def test_split_and_order_follow_the_seed():
    first, again, other = (digits.load_digits_split(seed)[1].tensors[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    train = digits.load_digits_split(0)[0]
    one, same, else_ = (next(iter(digits.batches(train, shuffle=True, seed=s)))[1] for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, else_)


def test_factories_for_the_command_line():
    batch, labels = next(iter(digits.train_batches()))
    assert batch.shape == (64, 1, 32, 32)
    assert labels.shape == (64,)
    (images, expected), *rest = list(digits.test_batches())
    assert rest == []
    assert torch.equal(images, digits.load_digits_split(0)[1].tensors[0])
    assert len(expected) == 360


def test_network():
    model = DigitsNet((8, 16, 24))
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 15
    assert isinstance(model.stage1[0].shortcut, nn.Identity)
    assert isinstance(model.stage2[0].shortcut, nn.Sequential)


class FakeModule:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def save(self, directory: Path, provenance: dict[str, Any]) -> None:
        directory.mkdir()
        (directory / "provenance.json").write_text(json.dumps(provenance))


@pytest.fixture
def bench_calls(monkeypatch: pytest.MonkeyPatch, fake_device: None) -> list[dict[str, Any]]:
    """A made-up device, on which the dense network takes 1 ms and the pruned one 0.4 ms."""
    calls: list[dict[str, Any]] = []

    def compile_model(
        model: nn.Module, inputs: Sequence[torch.Tensor], target: Target
    ) -> tuple[FakeModule, float]:
        return FakeModule(model), 2e-6

    def bench_bundle(directory: Path, **options: Any) -> tuple[Comparison, dict[str, str]]:
        calls.append({"directory": directory, **options})
        standings: list[Standing] = []
        for name, ms in ((module.PRUNED, 0.4), ("dense (TVM)", 1.0)):
            ns = ms * 1e6
            summary = Summary(ns, 0.9 * ns, 1.1 * ns, ns, ns, (), 3)
            standings.append(Standing(name, summary, (ns,) * 3, Ratio(ms / 0.4, 1, 2), 0.0))
        found = Comparison(module.PRUNED, 1, 0, "table", tuple(standings), {})
        return found, {"ONNX Runtime dense": "not installed"}

    monkeypatch.setattr(module, "DigitsNet", lambda: DigitsNet((32, 16, 16)))
    monkeypatch.setattr(module, "compile_model", compile_model)
    monkeypatch.setattr(module, "bench_bundle", bench_bundle)
    return calls


def run(directory: Path, **options: Any) -> module.QuickstartResult:
    settings = {"epochs": 1, "finetune_epochs": 1, "progress": lambda *_: None, **options}
    return module.quickstart(directory, load_target("x86-64-avx512"), **settings)


def test_all_stages_leave_their_files(bench_calls: list[dict[str, Any]], tmp_path: Path):
    out = tmp_path / "a" / "quickstart-out"
    stages: list[str] = []
    result = run(out, share=0.6, progress=lambda what, done, total: stages.append(what.split()[0]))
    assert {"train", "score", "profile", "fine-tune", "compile"} <= set(stages)
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [
            "bench.json",
            "bundle",
            "dense-bundle",
            "dense.safetensors",
            "plan.json",
            "pruned",
            "report.html",
            "report.json",
        ]
    )
    plan = hwprune.Plan.load(out / "plan.json")
    assert plan.budget_asked == "60%"
    assert plan.predicted_ns <= plan.budget_ns
    # Latencies stand on the footing of the one interleaved run.
    assert (result.latency_dense_ms, result.latency_pruned_ms) == (1.0, 0.4)
    assert result.budget_ms == pytest.approx(0.6)
    assert result.predicted_ms == pytest.approx(plan.predicted_ns / plan.dense_ns)
    assert result.met
    assert result.max_rel_error == 2e-6
    assert result.report == str(out / "report.html")
    assert result.to_dict().keys() >= {"accuracy_dense", "accuracy_pruned", "seconds", "report"}
    # What was benchmarked is what was repaired and saved, and the dense weights are those that were trained.
    (call,) = bench_calls
    assert call["directory"] == out / "bundle"
    saved = hwprune.load(out / "pruned", lambda: DigitsNet((32, 16, 16)))
    state = call["models"]["pruned"].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in saved.state_dict().items())
    assert evaluate_accuracy(saved, digits.test_batches()) == result.accuracy_pruned
    dense = load_file(out / "dense.safetensors")
    assert all(torch.equal(tensor, dense[k]) for k, tensor in call["models"]["dense"].state_dict().items())
    report = json.loads((out / "report.json").read_text())
    assert report["budget_ms"] == pytest.approx(0.6)
    assert any("ONNX Runtime dense did not take part: not installed" in w for w in report["warnings"])
    text = (out / "report.html").read_text()
    assert "handwritten digits" in text


@pytest.mark.parametrize(("pruned_ms", "met"), [(0.4, True), (0.5, True), (0.52, True), (0.53, False)])
def test_what_counts_as_met(pruned_ms: float, met: bool):
    result = module.QuickstartResult(0.99, 0.98, 1.0, pruned_ms, 0.5, 0.5, 1e-6, 9.0, "report.html")
    assert result.met is met


def test_training_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "DigitsNet", lambda: DigitsNet((8, 8, 8)))
    steps: list[int] = []

    def stop_at(stage: str, step: int) -> Progress:
        def progress(what: str, done: int, total: int) -> None:
            if what == "train":
                steps.append(done)
            if what.split()[0] == stage and done == step:
                raise KeyboardInterrupt

        return progress

    def cut_off(name: str, stage: str, step: int) -> None:
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / name, progress=stop_at(stage, step))

    cut_off("cut", "train", 5)
    assert steps == [1, 2, 3, 4, 5]
    assert not (tmp_path / "cut" / "dense.safetensors").exists()
    cut_off("cut", "score", 0)
    assert steps[0] == 6
    cut_off("whole", "score", 0)
    assert steps[0] == 1
    cut, whole = (load_file(tmp_path / name / "dense.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="cannot be written"):
        run(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
