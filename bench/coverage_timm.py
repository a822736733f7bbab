"""timm 1.0.31: the smallest model of every module of models, with the input it is fed."""

from __future__ import annotations

TIMM_MODELS: dict[str, tuple[int, int, int]] = {}
