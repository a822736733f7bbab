"""Criteria by name, and the checks at the front door."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies, analyse
from hwprune.errors import CriterionError, UsageError
from hwprune.importance import Criterion, Random, available, get, register, registry, score, to_objective
from tests.nets import Plain


@pytest.fixture(scope="module")
def plain() -> tuple[Captured, Dependencies]:
    torch.manual_seed(0)
    captured = capture(Plain().eval(), torch.randn(4, 3, 8, 8))
    return captured, analyse(captured)


@pytest.fixture
def custom() -> Iterator[type[Criterion]]:
    class Custom(Criterion):
        name: ClassVar[str] = "custom"
        data_need: ClassVar[registry.DataNeed] = "unlabelled"
        comparability: ClassVar[registry.Comparability] = "within_group"
        paper: ClassVar[str] = "none"
        fault: str = ""

        def __init__(self, fault: str = "") -> None:
            self.fault = fault

        def score(self, captured, deps, data, *, loss):  # type: ignore[no-untyped-def]
            count = sum(batch.size for batch in data)
            out = {g.name: torch.full((g.size,), float(count)) for g in deps.groups}
            first = deps.groups[0].name
            if self.fault == "nan":
                out[first][1] = float("nan")
            elif self.fault == "shape":
                out[first] = out[first][1:]
            elif self.fault == "missing":
                del out[first]
            elif self.fault == "unknown":
                out["elsewhere"] = out[first]
            return out

    register(Custom)
    yield Custom
    registry._registry.pop("custom")


def test_names_and_near_matches() -> None:
    assert {"l1", "l2", "bn_scale", "taylor2019"} <= set(available())
    assert "l1" in available(data_need="none") and "taylor2019" not in available(data_need="none")
    with pytest.raises(UsageError, match="did you mean taylor2019"):
        get("taylor2018")
    with pytest.raises(UsageError, match="no parameter norm"):
        get("l1", norm=2)
    with pytest.raises(UsageError, match="it takes form"):
        get("taylor2019", forms="gate")
    with pytest.raises(UsageError, match="no form 'hook'"):
        get("taylor2019", form="hook")


def test_parameters_may_be_written_behind_the_name(plain: tuple[Captured, Dependencies]) -> None:
    found = get("l1:variant=greedy:keep=0.25")
    assert (found.variant, found.keep) == ("greedy", 0.25)  # type: ignore[attr-defined]
    assert get("bn_distribution:weighted=true").weighted is True  # type: ignore[attr-defined]
    assert (
        get(
            "random:seed=3",
        ).seed
        == get("random", seed=3).seed
        == 3
    )  # type: ignore[attr-defined]
    for text in ("l2", "l1:variant=greedy:keep=0.25", "bn_distribution:weighted=true"):
        assert get(text).label == text
    assert get("l1", variant="greedy").label == "l1:variant=greedy"
    assert Random(seed=1).label == Random(1).label == "random:seed=1" and Random().label == "random"
    written, given = score(*plain, "random:seed=3"), score(*plain, "random", seed=3)
    assert all(written[name].tolist() == given[name].tolist() for name in written)
    for text, message in (
        ("l1:greedy", "'greedy' behind the criterion 'l1' is no parameter"),
        ("l1:=3", "is no parameter"),
        ("random:seed=1:seed=2", "'seed=2' behind the criterion 'random' is given twice"),
        ("l1:power=2", "no parameter power"),
        ("l1:variant=both", "no variant 'both'"),
        ("l1:variant=greedy:keep=half", "l1 is to keep 'half'"),
        ("regularized_sparsity:kappa=wide", "does not take kappa='wide'"),
        ("l11:keep=1", "did you mean l1"),
    ):
        with pytest.raises(UsageError, match=message):
            get(text)


def test_a_registered_criterion_is_used_and_its_name_is_taken(
    custom: type[Criterion], plain: tuple[Captured, Dependencies]
) -> None:
    scores = score(*plain, "custom", [torch.randn(3, 3, 8, 8), {"x": torch.randn(2, 3, 8, 8)}])
    assert {name: value.tolist() for name, value in scores.items()} == {
        g.name: [5.0] * g.size for g in plain[1].groups
    }
    assert all(value.dtype == torch.float64 for value in scores.values())
    assert score(*plain, custom(), [torch.randn(3, 3, 8, 8)] * 9, batches=2)["conv"][0] == 6

    class Other(custom):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(UsageError, match="already registered"):
        register(Other)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", r"1 scores that are not finite in group stem\.0"),
        ("shape", r"scores of shape \(7,\) for group stem\.0 of 8 channels"),
        ("missing", r"no scores for group stem\.0"),
        ("unknown", "unknown groups"),
    ],
)
def test_faulty_scores_are_refused(
    custom: type[Criterion], plain: tuple[Captured, Dependencies], fault: str, message: str
) -> None:
    with pytest.raises(CriterionError, match=message):
        score(*plain, "custom", [torch.randn(3, 3, 8, 8)], fault=fault)


def test_missing_data_and_labels_are_refused(plain: tuple[Captured, Dependencies]) -> None:
    with pytest.raises(CriterionError, match="needs labelled data") as caught:
        score(*plain, "taylor2019")
    assert "criterion without data: " + ", ".join(available(data_need="none")) in str(caught.value)
    with pytest.raises(CriterionError, match="empty"):
        score(*plain, "taylor2019", [])
    with pytest.raises(CriterionError, match="batch 0 of the loader has none"):
        score(*plain, "taylor2019", [torch.randn(2, 3, 8, 8)])
    with pytest.raises(
        UsageError, match=r"shape \(2, 4, 8, 8\); this graph was captured for \(batch, 3, 8, 8\)"
    ):
        score(*plain, "taylor2019", [(torch.randn(2, 4, 8, 8), torch.tensor([0, 1]))])
    with pytest.raises(CriterionError, match="the loss is nan"):
        score(*plain, "taylor2019", [(torch.full((2, 3, 8, 8), float("nan")), torch.tensor([0, 1]))])
    with pytest.raises(CriterionError, match=r"loss has shape \(2, 5\)"):
        score(*plain, "taylor2019", [torch.randn(2, 3, 8, 8)], loss=lambda outputs, _: outputs)
    with pytest.raises(UsageError, match="batches is 0"):
        score(*plain, "l1", batches=0)


def test_objective_of_each_class() -> None:
    scores = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([10.0, 10.0, -5.0, 40.0])}
    total = to_objective(scores, "global")
    np.testing.assert_allclose(total["a"], [1 / 64, 3 / 64])
    np.testing.assert_allclose(total["b"], [10 / 64, 10 / 64, 0, 40 / 64])
    normalised = to_objective(scores, "normalised")
    np.testing.assert_allclose(normalised["a"] * 6, [0.5, 1.5])
    np.testing.assert_allclose(normalised["b"] * 6, [10 / 15, 10 / 15, 0, 40 / 15])
    ranked = to_objective(scores, "within_group")
    np.testing.assert_allclose(ranked["a"] * 6, [2 / 3, 4 / 3])
    np.testing.assert_allclose(ranked["b"] * 6, [1.0, 1.0, 0.4, 1.6])
    for values in (total, normalised, ranked):
        assert sum(v.sum() for v in values.values()) == pytest.approx(1.0)
    zero = to_objective({"a": torch.zeros(2), "b": torch.zeros(2)}, "global")
    np.testing.assert_allclose(zero["a"], [0.25, 0.25])
    half = to_objective({"a": torch.zeros(2), "b": torch.tensor([1.0, 3.0])}, "normalised")
    np.testing.assert_allclose(half["a"], [0.25, 0.25])
    with pytest.raises(UsageError, match="unknown comparability"):
        to_objective(scores, "globally")  # type: ignore[arg-type]
