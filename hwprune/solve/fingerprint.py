"""Which model a plan is for."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names and shapes of all parameters, sorted by name; values do not count.

    A parameter that is used under several names counts under each of them, so the result depends
    on the structure only.
    """
    named = sorted((n, list(p.shape)) for n, p in model.named_parameters(remove_duplicate=False))
    return hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).hexdigest()
