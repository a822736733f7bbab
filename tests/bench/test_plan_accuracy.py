"""The accuracy benchmark: its figures, its baselines, and that it goes on where it was."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.plan_accuracy_case import Case, State
from bench.plan_accuracy_peers import TorchPruning, uniform_widths
from bench.plan_accuracy_prices import Prices
from bench.plan_accuracy_summary import rows_with_margins, summary
from bench.plan_accuracy_tasks import NETS, SIDE, synthetic
from bench.surrogates import summary as surrogates_summary
from hwprune.capture import capture
from hwprune.dependency import Dependencies, analyse
from hwprune.solve.problem import Choice
from hwprune.target import load_target


def _cell(method: str, seed: int, accuracy: float, share: float = 0.5, note: str = "") -> dict[str, Any]:
    head = {"task": "digits", "model": "separable", "seed": seed, "share": share, "method": method}
    numbers = {"accuracy": accuracy, "before": 0.1, "dense": 0.9, "predicted": share, "measured": None}
    return head | numbers | {"note": note}


def test_margins_are_over_the_best_of_the_others_and_spreads_over_the_seeds() -> None:
    cells = [
        _cell("ours", 0, 0.80, note="calibrated (...)"),
        _cell("ours", 1, 0.84, note="uniform (...)"),
        _cell("uniform", 0, 0.70),
        _cell("uniform", 1, 0.74),
        _cell("tp-taylor", 0, 0.60),
        _cell("tp-taylor", 1, 0.90),
        _cell("tp-taylor", 2, 0.99),  # the others are not done with this seed
    ]
    rows = rows_with_margins(cells)
    by = {row["method"]: row for row in rows}
    assert by["ours"]["accuracy"] == pytest.approx(82.0) and by["ours"]["seeds"] == 2
    assert by["tp-taylor"]["accuracy"] == pytest.approx(75.0)
    assert by["ours"]["margin"] == pytest.approx(7.0) and by["uniform"]["margin"] is None
    found = summary(rows)
    assert found["margin_min"] == found["separable_margin_at_50"] == pytest.approx(7.0)
    assert found["margin_over_spread_min"] == pytest.approx(7.0 + by["tp-taylor"]["spread"])
    assert found["recheck_replaced"] == 0.5
    assert summary(rows_with_margins([_cell("ours", 0, 0.5)])[:0]) == {}
    lost = cells[0] | {"method": "tp-taylor", "accuracy": None}
    without = rows_with_margins([cells[0], cells[2], lost])
    assert [row["method"] for row in without] == ["ours", "uniform"]
    assert without[0]["margin"] == pytest.approx(10.0)
    mild = rows_with_margins([_cell(m, 0, 0.5, share=0.7) for m in ("ours", "uniform")])
    assert summary(mild)["separable_margin_at_50"] is None


def test_the_best_power_is_the_one_with_the_best_worst_case() -> None:
    correlations = {"power 0.25": (0.9, 0.1), "power 0.5": (0.6, 0.7), "power 0.75": (0.5, 0.9)}
    correlations |= {"power 1": (0.4, 0.9), "power 2": (0.3, 0.9), "repaired": (1.0, 0.8)}
    rows = [{"surrogate": name, "loss": value} for name, both in correlations.items() for value in both]
    found = surrogates_summary(rows)
    assert found["power_best"] == 0.5 and found["repaired_min"] == 0.8


def _priced(name: str) -> tuple[nn.Module, Dependencies, Prices]:
    torch.manual_seed(0)
    model = NETS[name](20).eval()
    captured = capture(model, torch.zeros(1, 1, SIDE, SIDE))
    deps = analyse(captured)
    return model, deps, Prices.made_up(captured, deps, load_target("x86-64-avx512", threads=1))


def test_uniform_widths_are_the_largest_that_fit() -> None:
    _, _, prices = _priced("plain")
    dense = prices.of(prices.model.dense)
    last = dense
    for share in (0.8, 0.5, 0.3):
        widths = uniform_widths(prices, share * dense)
        assert 0.6 * share * dense < prices.of(widths) <= share * dense and prices.of(widths) < last
        shares = [n / prices.domains[g][-1] for g, n in widths.items()]
        assert max(shares) - min(shares) <= 0.25  # the widest step among the domains
        last = prices.of(widths)
    assert uniform_widths(prices, dense) == prices.model.dense


def test_a_problem_prices_choices_as_the_network_is_priced() -> None:
    _, _, prices = _priced("separable")
    values = {g: [float(n) for n in w] for g, w in prices.domains.items()}
    problem = prices.problem(values, 1e9)
    widths = uniform_widths(prices, 0.5 * prices.of(prices.model.dense))
    assert problem.usage(problem.limits[0], Choice(widths)) == pytest.approx(prices.of(widths))


def test_torch_pruning_keeps_the_budget_in_aligned_widths() -> None:
    pytest.importorskip("torch_pruning")
    model, deps, prices = _priced("plain")
    images = synthetic(0).train[:16]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    peer = TorchPruning(model, deps, prices, "taylor", (images[0], images[1]), 16)
    budget = 0.5 * prices.of(prices.model.dense)
    pruned = peer.at(budget)
    widths = peer.widths(pruned)
    assert 0.6 * budget < prices.of(widths) <= budget
    assert set(widths) == set(prices.domains) and all(width % 16 == 0 for width in widths.values())
    assert pruned(images[0]).shape == (16, 20)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def _options(path: Path, **changed: Any) -> argparse.Namespace:
    base = {"budgets": "0.5,0.25", "train": 1, "finetune": 1, "target": "host", "threads": 1}
    base |= {"profile": "quick", "made_up": True, "out": path / "result.json", "time": False, "seed": 0}
    return argparse.Namespace(**base | changed)


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def method(case: Case) -> Any:
        def plan(budget_ns: float) -> Any:
            calls.append(budget_ns)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return nn.Identity(), {"g": 1}, "note"

        return plan

    def prepare(case: Case) -> None:
        case.dense_ns = 100.0

    def judge(case: Case, model: nn.Module, widths: dict[str, int]) -> dict[str, Any]:
        return {"accuracy": 0.5, "predicted": 0.5, "widths": widths}

    monkeypatch.setattr(Case, "prepare", prepare)
    monkeypatch.setattr(Case, "_judge", judge)
    timed: list[list[str]] = []
    monkeypatch.setattr(Case, "_time", lambda case, names: timed.append(names))
    options = _options(tmp_path)
    place = tmp_path / "result.state.json"

    def run() -> State:
        state = State.load(place, options)
        Case("digits", "plain", 0, load_target("x86-64-avx512", threads=1), options, state).run(
            {"ours": method}
        )
        return state

    with pytest.raises(KeyboardInterrupt):
        run()
    assert calls == [50.0, 25.0]
    assert len(run().rows) == 2 and calls == [50.0, 25.0, 25.0]
    run()
    assert len(calls) == 3 and timed == []
    options.time, options.made_up = True, False
    with pytest.raises(SystemExit, match="belongs to a run"):
        run()
    options.made_up = True
    assert len(json.loads(place.read_text())["rows"]) == 2
    with pytest.raises(SystemExit, match="belongs to a run"):
        State.load(place, _options(tmp_path, finetune=9))


def test_plans_of_the_first_seed_are_timed_even_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Case, "prepare", lambda case: setattr(case, "dense_ns", 100.0))
    timed: list[list[str]] = []
    monkeypatch.setattr(Case, "_time", lambda case, names: timed.append(names))
    state = State(tmp_path / "state.json", {}, {})
    for seed in (0, 1):
        state.put(f"digits/plain/{seed}/0.5/ours", {"measured": None})
        state.put(f"digits/plain/{seed}/0.25/ours", {"measured": 0.2})
        target = load_target("x86-64-avx512", threads=1)
        options = _options(tmp_path, time=True, made_up=False)
        Case("digits", "plain", seed, target, options, state).run({"ours": lambda case: None})  # type: ignore[arg-type]
    assert timed == [["digits/plain/0/0.5/ours"]]
