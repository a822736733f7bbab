"""On a small trained network, criteria rank units as their true loss changes do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies, analyse
from hwprune.importance import score, true_loss_change
from hwprune.repair import FinetuneOptions, finetune
from tests.small import SHAPE, Small, batches

Trained = tuple[Captured, Dependencies, list[Any], torch.Tensor]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A residual network that has learned its task for the most part, and the truth about its units."""
    model = Small(16)
    finetune(model, batches(8), options=FinetuneOptions(steps=16, lr=0.03))
    captured = capture(model.eval(), torch.zeros(SHAPE))
    deps, data = analyse(captured), batches(8)
    truth = true_loss_change(captured, deps, data)
    return captured, deps, data, torch.cat([truth[g.name] for g in deps.groups])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("taylor2019", {}),
        ("taylor2019", {"form": "second_order"}),
        ("sosp_h", {}),
        ("sosp_i", {"selection": "diagonal"}),
        ("snip", {}),
    ],
)
def test_rank_correlation_with_the_true_loss_change(
    trained: Trained, name: str, options: dict[str, Any]
) -> None:
    captured, deps, data, truth = trained
    found = score(captured, deps, name, data, **options)
    ranks = spearmanr(torch.cat([found[g.name] for g in deps.groups]), truth.abs())
    assert ranks.statistic >= 0.9
