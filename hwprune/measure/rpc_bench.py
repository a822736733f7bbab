"""A benchmark of bundles on a remote device, with PyTorch here to say what should come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hwprune.measure.compare import Comparison
from hwprune.measure.rpc_site import RpcSite
from hwprune.measure.runners.rpc_address import RpcPlace
from hwprune.measure.stopping import MeasureProfile
from hwprune.target import Target

#: Why other engines do not take part.
ABSENT = "it runs on this machine only, the bundles on the device"


def bench_remote(
    bundles: Mapping[str, Path],
    models: Mapping[str, nn.Module],
    inputs: Sequence[torch.Tensor],
    target: Target,
    place: RpcPlace,
    profile: MeasureProfile,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Comparison, dict[str, str]]:
    """Time bundles in turn on one device.

    Parameters
    ----------
    bundles
        Directories by name; the first is the reference, the second, if any, the dense model's.
    models
        ``"dense"`` and ``"pruned"`` (either may be missing): bundles' outputs are compared with theirs.

    Returns
    -------
    tuple
        The comparison, and the reason for each engine that could not take part.

    Raises
    ------
    TargetError
        The device cannot run the target.
    MeasureError
        It cannot be reached, or a bundle does not run there.
    """
    site = RpcSite(place, target)
    site.require(target)
    first, *others = bundles
    own = {"pruned": first, "dense": first if "pruned" not in models and not others else None}
    if others:
        own["dense"] = others[0]
    expected = {name: _results(model, inputs) for kind, model in models.items() if (name := own[kind])}
    arrays = [x.numpy() for x in inputs]
    comparison = site.compare_bundles(
        bundles, arrays, target, profile=profile, expected=expected, seed=seed, progress=progress
    )
    return comparison, dict.fromkeys(("PyTorch eager", "ONNX Runtime"), ABSENT) if models else {}


def _results(model: nn.Module, inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
    with torch.no_grad():
        result = model(*inputs)
    return [tensor.numpy() for tensor in (result if isinstance(result, tuple | list) else [result])]
