"""The benchmark of criteria: its figures, and that it goes on where it was."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from bench.criteria_case import UNIFORM, CriteriaCase
from bench.criteria_oracle import correlations, oracle_rows, oracle_summary
from bench.criteria_summary import STAGES, rows_of_cells, summary
from bench.plan_accuracy_case import State
from bench.plan_accuracy_tasks import TASKS, Task, digits
from hwprune.target import load_target


def _cell(criterion: str, stage: str, accuracy: float | None, seed: int = 0) -> dict[str, Any]:
    head = {"task": "digits", "model": "plain", "criterion": criterion, "budget": 0.5, "seed": seed}
    return {**head, "stage": stage, "accuracy": accuracy, "seconds": 2.0, "dense": 0.9, "note": ""}


def test_what_is_won_back_and_who_is_best() -> None:
    cells = [
        _cell("l1", "cut", 0.1),
        _cell("l1", "recalibrated", 0.5),
        _cell("l1", "least_squares", 0.7),
        _cell("chip", "cut", 0.5),
        _cell("chip", "recalibrated", 0.8),
        _cell("chip", "least_squares", 0.6),
        _cell("snip", "cut", 0.895),  # lost less than a point: no share of it
        _cell("snip", "least_squares", 0.9),
        _cell(UNIFORM, "cut", 0.1),
        _cell(UNIFORM, "least_squares", 0.9),
        _cell("nisp", "declined", None),
    ]
    found = summary(cells)
    assert found["declined"] == ["nisp"]
    assert found["accuracy"]["l1"]["cut"] == pytest.approx(10.0)
    assert found["accuracy"]["l1"]["scales"] is None
    behind = found["points_lost"]["least_squares"]
    assert behind == pytest.approx({"snip": 0.0, UNIFORM: 0.0, "l1": 20.0, "chip": 30.0})
    assert found["best"]["none"]["least_squares"] == "l1"
    assert found["best"]["unlabelled"]["least_squares"] == "l1"
    assert found["best"]["labelled"]["least_squares"] == "snip"
    # l1: 0.6 of 0.8; chip: 0.1 of 0.4; uniform: all of it
    assert found["won_back"]["least_squares"]["50%"] == pytest.approx((0.75 + 0.25 + 1.0) / 3)
    assert found["fit_raises"]["least_squares"]["over_recalibrated"] == 0.5
    assert found["fit_raises"]["least_squares"]["over_cut"] == 1.0
    assert found["score_s"]["l1"] == 2.0
    assert summary([]) == {}


def test_the_spread_is_over_seeds() -> None:
    cells = [_cell("l1", "finetuned", accuracy, seed) for seed, accuracy in enumerate((0.7, 0.8, 0.9))]
    found = summary(cells)
    assert found["accuracy"]["l1"]["finetuned"] == pytest.approx(80.0)
    assert found["spread"]["l1"]["finetuned"] == pytest.approx(10.0)


def test_correlations_with_the_oracle() -> None:
    change = {"a": torch.tensor([0.1, -0.4, 0.2, 0.3]), "b": torch.tensor([1.0, 2.0])}
    scores = {"a": torch.tensor([1.0, 9.0, 2.0, 3.0]), "b": torch.tensor([5.0, 5.0])}
    found = correlations(scores, change)
    assert found["a"]["size"] == pytest.approx(1.0)
    assert found["a"]["signed"] == pytest.approx(-0.2)
    assert found["b"] == {"size": None, "signed": None}
    head = {"task": "digits", "model": "plain", "seed": 0, "criterion": "l1"}
    cells = [head | {"groups": found}, head | {"seed": 1, "groups": {"a": {"size": 0.5, "signed": 0.1}}}]
    (row,) = oracle_rows(cells)
    assert row["spearman"] == pytest.approx(0.75) and row["spearman_min"] == 0.5 and row["seeds"] == 2
    assert oracle_summary(cells) == {"spearman": {"l1": pytest.approx(0.75)}}


def _few(seed: int) -> Task:
    whole = digits(seed)
    parts = [TensorDataset(*part[:64]) for part in (whole.train, whole.held_out, whole.test)]
    return Task(*parts, classes=10)


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "digits", _few)
    options = argparse.Namespace(
        budgets="0.5",
        train=3,
        finetune=1,
        target="host",
        threads=1,
        profile="quick",
        made_up=True,
        time=False,
    )
    path, criteria = tmp_path / "criteria.state.json", ["random", "sosp_i:no_such=1"]

    def case() -> CriteriaCase:
        return CriteriaCase("digits", "plain", 0, load_target("host"), options, State.load(path, options))

    first = case()
    first.run_criteria(criteria)
    rows = rows_of_cells(list(first.state.rows.values()))
    assert [r["stage"] for r in rows if r["criterion"] == "random"] == list(STAGES)
    assert [r["stage"] for r in rows if r["criterion"] == UNIFORM] == list(STAGES)
    (declined,) = [r for r in rows if r["criterion"].startswith("sosp_i")]
    assert declined["stage"] == "declined" and "no_such" in declined["note"]
    assert all(r["predicted"] <= 0.5 for r in rows if r["criterion"] == "random")
    before = path.read_bytes()
    again = case()
    again.prepare = lambda: pytest.fail("everything was there")  # type: ignore[method-assign]
    again.run_criteria(criteria)
    assert path.read_bytes() == before
