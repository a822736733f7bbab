"""One model of the coverage benchmark.

Every group of channels is cut to a random half; the result must equal the masked original, run at
another batch size and take a training step. Seconds are processor time, so that the load of the
machine does not count.
"""

from __future__ import annotations

import copy
import random
import time
import traceback
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bench.coverage_alive import enliven
from bench.coverage_zoo import Part, build
from hwprune.capture import Captured, capture
from hwprune.dependency import Dependencies, analyse
from hwprune.errors import CaptureError, HwpruneError, VerificationError
from hwprune.surgery import cut_graph, prune_model
from hwprune.surgery.compare import in_double, relative_error
from hwprune.surgery.masked import masked_original
from hwprune.surgery.module import cut_module

#: A model of several parts is the last of these that a part is: a head between protected inputs and
#: outputs has nothing to prune, which does not undo what was cut from the backbone.
STATUSES = ("declined", "not_exportable", "exact", "failed", "wrong")
TOLERANCE = 1e-4


def cover_model(zoo: str, name: str, seed: int, ratio: float) -> dict[str, Any]:
    """The row of one model: its parts taken together."""
    net, inputs = tiny()
    capture(net, inputs)  # a process's first export imports what the others only use
    torch.manual_seed(seed)
    try:
        parts = build(zoo, name, lambda part: enliven(part.module, part.inputs, seed))
    except Exception as error:
        return {"status": "failed", "reason": f"building the model: {_line(error)}"}
    return joined([cover_part(part, seed, ratio) for part in parts])


def joined(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of several parts: the status that weighs most, sums and maxima."""
    if len(rows) == 1:
        return dict(rows[0])
    worst = max(rows, key=lambda row: STATUSES.index(row["status"]))
    out = dict(worst)
    for key in ("parameters", "parameters_after", "groups", "channels", "channels_prunable", "nodes"):
        out[key] = sum(row.get(key) or 0 for row in rows)
    for key in ("capture_s", "analyse_s", "cut_s", "prune_s", "max_rel_error"):
        out[key] = max((row.get(key) or 0.0 for row in rows), default=0.0)
    out["effect"] = min((row["effect"] for row in rows if row.get("effect") is not None), default=None)
    out["reason"] = "; ".join(f"{row['part']}: {row['reason']}" for row in rows if row["reason"])
    out["part"] = "+".join(row["part"] for row in rows)
    out["parts"] = list(rows)
    return out


def tiny() -> tuple[nn.Module, torch.Tensor]:
    """Two convolutions, to have everything imported before the clock runs."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
    return net.eval(), torch.zeros(1, 3, 8, 8)


def cover_part(part: Part, seed: int, ratio: float) -> dict[str, Any]:
    """Capture, analyse, cut, verify and train one module; whatever goes wrong is in the row."""
    row: dict[str, Any] = {
        "status": "failed",
        "part": part.name,
        "input": ", ".join("x".join(map(str, x.shape)) for x in part.inputs[:2]),
        "parameters": count(part.module),
        "reason": "",
    }
    try:
        row |= _cover(part, seed, ratio, row)
    except VerificationError as error:
        row |= {"status": "wrong", "reason": str(error)}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        row |= {
            "status": "failed",
            "reason": f"{_line(error)} ({Path(where.filename).name}:{where.lineno})",
        }
    return row


def _cover(part: Part, seed: int, ratio: float, row: dict[str, Any]) -> dict[str, Any]:
    start = time.process_time()
    try:
        captured = capture(part.module, part.inputs)
    except CaptureError as error:
        refused = "torch.export cannot take" in error.message
        return {"status": "not_exportable" if refused else "declined", "reason": error.message}
    row["capture_s"] = time.process_time() - start
    deps = analyse(captured)
    row["analyse_s"] = time.process_time() - start  # capture included
    row |= _inventory(captured, deps)
    if not deps.groups:
        return {"status": "declined", "reason": _main_reasons(deps)}
    keep = random_keep(deps, seed, ratio)
    start = time.process_time()
    model, reason = prune_model(captured, deps, keep)
    row["prune_s"] = time.process_time() - start
    row |= {"parameters_after": count(model), "form": "class" if reason is None else "graph"}
    row |= {"kept_because": _main_reasons(deps), "class_reason": reason or ""}
    start = time.process_time()
    cut_module(part.module, deps, keep) if reason is None else cut_graph(captured, deps, keep)
    row["cut_s"] = time.process_time() - start
    row["max_rel_error"], row["effect"] = error_and_effect(captured, deps, keep, model)
    row["batch"] = any_batch(part, model)
    images = 2 if row["batch"] == "any" else 1
    trained = train_step(model, part, images)
    original = "" if not trained else train_step(copy.deepcopy(part.module), part, images)
    if trained and not original:
        return {"status": "failed", "reason": f"training step: {trained}"}
    row["train"] = trained and f"neither does the original: {trained}"
    return {"status": "exact" if row["max_rel_error"] <= TOLERANCE else "wrong"}


def count(model: nn.Module) -> int:
    """Numbers in the parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def random_keep(deps: Dependencies, seed: int, ratio: float) -> dict[str, tuple[int, ...]]:
    """About ``ratio`` of the units of every group, at random; at least one of each."""
    keep: dict[str, tuple[int, ...]] = {}
    for group in deps.groups:
        draw = random.Random(zlib.crc32(group.name.encode()) + seed)
        size = max(1, round(group.size * ratio))
        keep[group.name] = tuple(sorted(draw.sample(range(group.size), size)))
    return keep


def _inventory(captured: Captured, deps: Dependencies) -> dict[str, Any]:
    prunable = sum(group.size * group.channels_per_unit for group in deps.groups)
    kept = sum(line.channels for line in deps.ledger if "output of the model" not in line.reason)
    return {
        "nodes": len(captured.graph.graph.nodes),
        "groups": len(deps.groups),
        "channels": prunable + kept,
        "channels_prunable": prunable,
    }


def _main_reasons(deps: Dependencies, most: int = 3) -> str:
    """The reasons that keep most channels, the model's outputs aside."""
    channels: dict[str, int] = {}
    for line in deps.ledger:
        reason = line.reason.split(" (node")[0]
        if "output of the model" not in reason:
            channels[reason] = channels.get(reason, 0) + line.channels
    most_channels = sorted(channels.items(), key=lambda item: -item[1])[:most]
    return "; ".join(f"{reason} ({number} channels)" for reason, number in most_channels)


def error_and_effect(
    captured: Captured, deps: Dependencies, keep: Mapping[str, Sequence[int]], model: nn.Module
) -> tuple[float, float]:
    """On inputs that the pruner has not seen: how far the result is from the masked original, and how far
    that is from the original. Had the cut no effect, the verification would see nothing.
    """
    generator = torch.Generator().manual_seed(11)
    inputs = [torch.randn(x.shape, generator=generator) for x in captured.example_inputs]
    model.eval()
    with torch.no_grad():
        dense = tensors(captured.graph(*inputs))
        masked = tensors(masked_original(captured, deps, keep)(*inputs))
        got = tensors(model(*inputs))
    error = max((relative_error(g, m) for g, m in zip(got, masked, strict=True)), default=0.0)
    if not error <= TOLERANCE:  # rounding, amplified? Then float64 shows equality
        reference = masked_original(captured, deps, keep)
        (exact, wide), (smaller, _) = in_double(reference, inputs), in_double(model, inputs)
        with torch.no_grad():
            pairs = zip(tensors(smaller(*wide)), tensors(exact(*wide)), strict=True)
            error = max(relative_error(g, m) for g, m in pairs) / 1e-2
    return error, max((relative_error(m, d) for m, d in zip(masked, dense, strict=True)), default=0.0)


def any_batch(part: Part, model: nn.Module) -> str:
    """``any`` when two inputs in one batch give what they give alone, else why not."""
    generator = torch.Generator().manual_seed(3)
    first = [torch.randn(x.shape, generator=generator) for x in part.inputs]
    second = [torch.randn(x.shape, generator=generator) for x in part.inputs]
    both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    model.eval()
    with torch.no_grad():
        try:
            together = tensors(model(*both))
        except Exception as error:
            return f"fixed: {_line(error)}"
        alone = [tensors(model(*first)), tensors(model(*second))]
    for whole, *halves in zip(together, *alone, strict=True):
        if relative_error(whole, torch.cat(halves)) > TOLERANCE:
            return "fixed: other values in a batch of two"
    return "any"


def train_step(model: nn.Module, part: Part, images: int) -> str:
    """One step of gradient descent on a batch of one or two inputs; why it is impossible, if it is."""
    batch = [torch.cat([x, x + 0.1 * torch.randn_like(x)][:images]) for x in part.inputs]
    before = [p.detach().clone() for p in model.parameters()]
    try:
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        loss = sum((t.float() ** 2).mean() for t in tensors(model(*batch)) if t.requires_grad)
        if not isinstance(loss, torch.Tensor) or not bool(loss.isfinite()):
            return f"the loss is {loss}"
        loss.backward()
        optimizer.step()
    except Exception as error:
        return _line(error)
    finally:
        model.eval()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    return "" if sum(moved) > len(moved) / 2 else f"only {sum(moved)} of {len(moved)} parameters moved"


def tensors(output: object) -> list[torch.Tensor]:
    """The tensors of a model's output, whatever holds them."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _line(error: BaseException) -> str:
    message = error.message if isinstance(error, HwpruneError) else str(error)
    return f"{type(error).__name__}: {' '.join(message.split())[:300]}"
