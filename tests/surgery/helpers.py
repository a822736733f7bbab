"""Prepared networks and random choices of what to keep."""

from __future__ import annotations

import random

import torch

from hwprune.capture import Captured, capture
from hwprune.dependency import Dependencies, analyse
from tests.nets import NETS, settle

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Keep = dict[str, list[int]]

_cache: dict[str, tuple[Captured, Dependencies]] = {}


def prepared(name: str) -> tuple[Captured, Dependencies]:
    if name not in _cache:
        torch.manual_seed(1)
        captured = capture(settle(NETS[name]()), IMAGE)
        _cache[name] = captured, analyse(captured)
    return _cache[name]


def random_keep(deps: Dependencies, seed: int = 0, multiple: int = 1) -> Keep:
    choose = random.Random(seed)
    keep: Keep = {}
    for g in deps.groups:
        step = multiple if g.size > multiple else 1
        keep[g.name] = sorted(choose.sample(range(g.size), step * choose.randint(1, g.size // step)))
    return keep
