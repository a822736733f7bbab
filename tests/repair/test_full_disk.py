"""What is written when the disk has no room: nothing, and an error that says so."""

from __future__ import annotations

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import hwprune
from hwprune.api import analyse_model
from hwprune.errors import ArtifactError
from hwprune.repair.checkpoint import load_checkpoint, save_checkpoint
from tests.plans import plan_for
from tests.small import SHAPE, Small


@contextmanager
def room_for(size: int) -> Generator[None]:
    """No file may get larger than so many bytes: to those who write it is a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    save_checkpoint(path, {"w": torch.ones(4)}, {"step": 1})
    with room_for(1000), pytest.raises(ArtifactError, match=r"run\.checkpoint"):
        save_checkpoint(path, {"w": torch.ones(4096)}, {"step": 2})
    assert load_checkpoint(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"]


def test_a_model_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    captured, deps = analyse_model(Small(), torch.zeros(SHAPE))
    made = plan_for(captured.model, deps, {"a.0": list(range(16))})
    pruned = hwprune.apply_plan(Small(), torch.zeros(SHAPE), made)
    with room_for(1000), pytest.raises(ArtifactError, match="weights"):
        hwprune.save(pruned, tmp_path / "out")
    assert not list(tmp_path.iterdir())
