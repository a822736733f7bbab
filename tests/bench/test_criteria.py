"""The benchmark of criteria: a run of seconds from end to end, and what its cells add up to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import plan_accuracy_case as case_module
from bench.criteria import main
from bench.criteria_cells import STAGES, Cells
from bench.criteria_oracle import correlations, oracle_summary
from bench.criteria_summary import rows_of, summary
from tests.bench.tiny import tiny_net, tiny_task


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setitem(case_module.NETS, "tiny", tiny_net)
    monkeypatch.setitem(case_module.TASKS, "tiny", tiny_task)
    text = "--models tiny --tasks tiny --seeds 1 --train 3 --finetune 1 --made-up --target x86-64-avx512"
    return [*text.split(), "--budgets", "0.7", "--out", str(tmp_path / "found.json")]


def test_a_run_has_every_stage_of_every_criterion_and_goes_on_where_it_was(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(tiny[-1])
    main([*tiny, "--criteria", "l1,wanda", "--widths", "same"])
    found = json.loads(out.read_text())
    assert [(r["criterion"], r["stage"]) for r in found["rows"]] == [
        (criterion, stage) for criterion in ("l1", "wanda") for stage in STAGES
    ]
    for row in found["rows"]:
        assert {"criterion", "budget", "seed", "stage", "accuracy", "seconds"} <= set(row)
        assert 0 <= row["accuracy"] <= 1 and row["seconds"] >= 0 and 0 < row["predicted"] <= 0.7
    # The same widths: the same latency.
    assert len({row["predicted"] for row in found["rows"]}) == 1
    scored: list[str] = []
    real = Cells._criterion  # pyright: ignore[reportPrivateUsage]

    def spy(self: Cells, criterion: str, missing: list[tuple[str, float]]) -> None:
        scored.append(criterion)
        real(self, criterion, missing)

    monkeypatch.setattr(Cells, "_criterion", spy)
    main([*tiny, "--criteria", "l1,wanda", "--widths", "same"])
    assert scored == []
    main([*tiny, "--criteria", "l1,gradient_matrix", "--widths", "own", "--json"])
    assert scored == ["l1", "gradient_matrix"]
    assert {r["widths"] for r in json.loads(out.read_text())["rows"]} == {"same", "own"}


@pytest.mark.usefixtures("fake_device")
def test_networks_are_timed_end_to_end_where_asked(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(tiny[-1])
    measured = [option for option in tiny if option != "--made-up"]
    asked = [*measured, "--criteria", "l1,lamp", "--widths", "same", "--budgets", "0.7"]
    main(asked)
    assert all(row["measured"] is None for row in json.loads(out.read_text())["rows"])
    main([*asked, "--time"])
    found = json.loads(out.read_text())
    # On the made-up device a network takes what its kernels take.
    assert all(row["measured"] == pytest.approx(row["predicted"], abs=1e-4) for row in found["rows"])
    assert found["summary"]["timed"] == 2 and found["summary"]["measured_over_budget"]["1.0"] <= 1.0
    assert found["summary"]["prediction_error_median"] == pytest.approx(0.0, abs=1e-4)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*tiny, "--time"])
    assert "--made-up" in capsys.readouterr().err


def test_the_oracle_runs(tiny: list[str]) -> None:
    main([*tiny, "--criteria", "l1,taylor2019", "--oracle", "--oracle-train", "1,3"])
    found = json.loads(Path(tiny[-1]).read_text())
    assert set(found["summary"]["criteria"]) == {"l1", "taylor2019"}
    assert set(found["summary"]["by_steps"]) == {"1", "3"}
    assert all(-1 <= row["spearman"] <= 1 for row in found["rows"])
    assert [row["units"] for row in found["rows"][:3]] == [32, 32, 64]


def test_correlations_are_of_ranks_group_by_group() -> None:
    scores = {"a": torch.tensor([1.0, 2.0, 30.0]), "b": torch.tensor([3.0, 2.0, 1.0]), "c": torch.ones(3)}
    changes = {"a": torch.tensor([0.1, 0.2, 0.3]), "b": torch.tensor([-3.0, 2.0, 1.0]), "c": torch.ones(3)}
    rows = {row["group"]: row for row in correlations(scores, changes)}
    assert rows["a"]["spearman"] == pytest.approx(1.0) and rows["c"]["spearman"] == 0.0
    assert rows["b"]["spearman"] == pytest.approx(-0.5) and rows["b"]["spearman_size"] == pytest.approx(1.0)
    assert rows["*"]["units"] == 9
    found = oracle_summary([{"criterion": "l1", "steps": 5, **row} for row in rows.values()])
    assert found["criteria"]["l1"]["within_groups"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["criteria"]["l1"]["all_units"] == round(rows["*"]["spearman_size"], 3)
    assert found["by_steps"]["5"] == found["criteria"] and found["failed"] == []


def _cell(criterion: str, seed: int, **accuracies: float) -> dict[str, Any]:
    stages = {
        stage.replace("_plus_", "+"): {"accuracy": a, "seconds": 1.0} for stage, a in accuracies.items()
    }
    head = {"criterion": criterion, "budget": 0.5, "seed": seed, "task": "t", "model": "m", "widths": "same"}
    return {**head, "dense": 0.9, "predicted": 0.5, "score_s": 2.0, "error": None, "stages": stages}


def test_means_spreads_and_the_best_for_the_data_there_are() -> None:
    def cell(criterion: str, seed: int, last: float) -> dict[str, Any]:
        first = {"cut": 0.1, "recalibrated": 0.5, "least_squares": 0.74}
        return _cell(criterion, seed, **first, scales=0.1, least_squares_plus_finetuned=last)

    cells = [cell("l1", 0, 0.5), cell("l1", 1, 0.7), cell("wanda", 0, 0.6), cell("wanda", 1, 0.8)]
    cells += [cell("taylor2019", 0, 0.4), cell("taylor2019", 1, 0.6)]
    broken = {**_cell("chip", 0), "error": "no tap"}
    rows = rows_of([*cells, broken])
    assert rows[-1]["stage"] == "none" and rows[-1]["accuracy"] is None
    found = summary(rows)
    last = found["table"]["same"]["l1"]["least_squares+finetuned"]
    assert last["accuracy"] == pytest.approx(60.0) and last["behind"] == pytest.approx(10.0)
    assert last["spread"] == pytest.approx(100 * 0.1 * 2**0.5, abs=0.01)
    assert found["best"]["same"] == {"none": "l1", "unlabelled": "wanda", "labelled": "wanda"}
    assert found["failed"] == ["chip"]
    assert found["raised_share"] == {"recalibrated": 1.0, "least_squares": 1.0, "scales": 0.0}
    assert found["not_below_recalibrated_share"] == {"least_squares": 1.0, "scales": 0.0}
    assert found["won_back_median"]["least_squares m 0.5"] == pytest.approx(0.8)
    assert found["score_s"]["l1"] == 2.0 and summary([]) == {}
