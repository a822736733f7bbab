"""Torch-Pruning on one model of the coverage benchmark.

Its ``BasePruner`` at ratio 0.5 with random importance, the layers that make the model's outputs ignored,
and nothing else that is particular to a model. What it removes is noted while it does, in the indices
of the original, and judged by the same oracle: the original, deaf to those channels in every layer
that reads them.

``exact`` or ``wrong``: against that oracle. ``unjudged``: it runs and the outputs have the right shape,
but it cut through a LayerNorm, GroupNorm or attention module, whose masked original is another
network: nothing more can be said. ``failed``: an exception, nothing cut, or outputs of other shapes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from bench.coverage_alive import enliven
from bench.coverage_one import TOLERANCE, count, tensors, tiny
from bench.coverage_zoo import Part, build
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.surgery.compare import relative_error

Removed = dict[str, set[int]]


def peer_model(zoo: str, name: str, seed: int, ratio: float) -> dict[str, Any]:
    """The peer's row of one model."""
    net, inputs = tiny()
    prune(net, (inputs,), [], ratio)  # a process's first pruning imports what the others only use
    torch.manual_seed(seed)
    parts = build(zoo, name, lambda part: enliven(part.module, part.inputs, seed))
    return peer_joined([peer_part(part, ratio) for part in parts])


def peer_joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst part decides; seconds and parameters add up."""
    order = ("exact", "unjudged", "failed", "wrong")
    worst = max(rows, key=lambda row: order.index(row["status"]))
    return {
        "status": worst["status"],
        "reason": worst["reason"],
        "s": sum(row["s"] for row in rows),
        "parameters_after": sum(row["parameters_after"] or 0 for row in rows),
    }


def peer_part(part: Part, ratio: float) -> dict[str, Any]:
    """Prune one module and judge it; whatever goes wrong is in the row."""
    row: dict[str, Any] = {"status": "failed", "reason": "", "s": 0.0, "parameters_after": None}
    ignored = output_layers(part)
    pruned = copy.deepcopy(part.module)
    start = time.process_time()
    try:
        removed, mixing = prune(pruned, part.inputs, ignored, ratio)
        row["s"] = time.process_time() - start
        row["parameters_after"] = count(pruned)
        if not removed:
            return row | {"reason": "nothing was cut"}
        return row | judge(part, pruned, removed, mixing)
    except Exception as error:
        row["s"] = row["s"] or time.process_time() - start
        return row | {"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def output_layers(part: Part) -> list[str]:
    """Layers that make the outputs, found by our own analysis: its user names them by hand."""
    try:
        ledger = analyse(capture(part.module, part.inputs)).ledger
    except Exception:
        return []
    return [line.name for line in ledger if "output of the model" in line.reason]


def prune(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], ignored: Iterable[str], ratio: float
) -> tuple[Removed, list[str]]:
    """Cut in place; return what every layer no longer reads, and the layers that mix channels.

    Groups are cut one after another, so indices are those of what is left: they are traced back.
    """
    import torch_pruning as tp

    modules = dict(model.named_modules())
    pruner = tp.pruner.BasePruner(
        model,
        inputs if len(inputs) > 1 else inputs[0],
        importance=tp.importance.RandomImportance(),
        pruning_ratio=1 - ratio,
        ignored_layers=[modules[name] for name in ignored if name in modules],
        in_channel_groups={},  # its defaults are shared by all pruners of a process
        out_channel_groups={},
        num_heads={},
    )
    names = {module: name for name, module in modules.items()}
    left: dict[str, list[int]] = {}
    removed: Removed = {}
    mixing: list[str] = []
    for group in pruner.step(interactive=True):
        for dep, idxs in group:
            module = dep.target.module
            if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.MultiheadAttention):
                mixing.append(type(module).__name__)
            if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or not _reads(dep.handler):
                continue
            name = names[module]
            size = module.in_features if isinstance(module, nn.Linear) else module.in_channels
            current = left.setdefault(name, list(range(size)))
            gone = set(idxs)
            removed.setdefault(name, set()).update(current[i] for i in gone)
            left[name] = [index for i, index in enumerate(current) if i not in gone]
        group.prune()
    return removed, mixing


def _reads(handler: Any) -> bool:
    return "in_channels" in getattr(handler, "__name__", "")


def judge(
    part: Part, pruned: nn.Module, removed: Mapping[str, set[int]], mixing: list[str]
) -> dict[str, Any]:
    """Compare with the original whose layers do not hear the removed channels."""
    reference = copy.deepcopy(part.module).eval()
    pruned.eval()
    worst = 0.0
    modules = dict(reference.named_modules())
    for name, channels in removed.items():
        modules[name].register_forward_pre_hook(_deaf(modules[name], sorted(channels)))
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        inputs = [torch.randn(x.shape, generator=generator) for x in part.inputs]
        with torch.no_grad():
            wanted, got = tensors(reference(*inputs)), tensors(pruned(*inputs))
        if [w.shape for w in wanted] != [g.shape for g in got]:
            return {"status": "failed", "reason": f"outputs of shapes {[tuple(g.shape) for g in got][:3]}"}
        for w, g in zip(wanted, got, strict=True):
            worst = max(worst, relative_error(g, w))
    if worst <= TOLERANCE:
        return {"status": "exact", "reason": ""}
    if mixing:
        kinds = ", ".join(sorted(set(mixing)))
        return {"status": "unjudged", "reason": f"runs with outputs of the right shape; cut through {kinds}"}
    return {"status": "wrong", "reason": f"differs by {worst:.2e} of the output's scale"}


def _deaf(module: nn.Module, channels: list[int]) -> Any:
    dim = -1 if isinstance(module, nn.Linear) else 1

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        index = torch.tensor(channels, device=args[0].device)
        return (args[0].index_fill(dim, index, 0), *args[1:])

    return hook
