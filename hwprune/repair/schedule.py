"""The learning-rate schedule: linear warm-up, then a cosine."""

from __future__ import annotations

import math


def learning_rate(step: int, total: int, *, peak: float, warmup: int = 0, final_ratio: float = 0.0) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``total``.

    The warm-up rises to ``peak`` over ``warmup`` steps, its first step at ``peak / warmup``; the
    cosine then falls from ``peak`` and would reach ``peak * final_ratio`` at step ``total``
    (Loshchilov and Hutter, ICLR 2017, without restarts).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    floor = peak * final_ratio
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
