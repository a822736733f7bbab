"""Requested against achieved, counted in the weights of the result."""

from __future__ import annotations

import pytest
import torch

from hwprune.surgery import cut_graph, prune_model
from hwprune.surgery.outcome import Outcome, outcomes
from tests.nets import NETS
from tests.surgery.helpers import prepared, random_keep


@pytest.mark.parametrize("name", NETS)
def test_all_that_was_asked_for_is_achieved(name: str) -> None:
    captured, deps = prepared(name)
    keep = random_keep(deps, 6)
    for model in (prune_model(captured, deps, keep)[0], cut_graph(captured, deps, keep)):
        rows = outcomes(captured, deps, keep, model)
        groups = [row for row in rows if row.reason is None]
        per_unit = {g.name: g.channels_per_unit for g in deps.groups}
        assert {row.name: row.achieved for row in groups} == {
            group: len(units) * per_unit[group] for group, units in keep.items()
        }
        assert all(row.requested == row.achieved for row in rows)
        assert {(row.name, row.reason) for row in rows} >= {(r.name, r.reason) for r in deps.ledger}


def test_a_model_that_was_cut_otherwise_shows() -> None:
    captured, deps = prepared("concat")
    other, _ = prune_model(captured, deps, {"b": [0, 1, 2], "a": [3]})
    rows = {row.name: row for row in outcomes(captured, deps, {"b": [0, 1], "a": [3]}, other)}
    assert rows["b"] == Outcome("b", 6, 2, 3)
    assert rows["a"] == Outcome("a", 4, 1, 1)
    assert rows["c"] == Outcome("c", 5, 5, 5)
    dense = {row.name: row for row in outcomes(captured, deps, {"b": [0]}, captured.model)}
    assert (dense["b"].requested, dense["b"].achieved) == (1, 6)
    nothing = outcomes(captured, deps, {}, torch.nn.Identity())
    assert nothing[0].achieved is None
