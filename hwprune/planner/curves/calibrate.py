"""Objectives that were calibrated: what every width really costs, measured by forward passes.

Scores only say which channels to keep; how many, a sum of scores answers badly where groups differ
in kind (a thin depthwise layer starves before anybody notices). So each group is cut, alone, to
a few widths, repaired as the finished model will be, and its loss on held-out data is taken. Between
those widths the change of the loss is interpolated (:mod:`hwprune.planner.curves.shape`), and the
solver gets it in the place of sums of scores. The same is done with every removable block and every
input resolution on offer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.registry import Loss
from hwprune.planner.curves.memory import Memory, digest
from hwprune.planner.curves.meter import Against, Meter, Repair
from hwprune.planner.curves.shape import loss_curve, probe_widths
from hwprune.planner.curves.values import worth_of
from hwprune.planner.workbench import Progress, silent
from hwprune.planner.worth import Side, Worth
from hwprune.repair.cut_repair import CutRepair
from hwprune.solve.domains import keep_best

#: Widths at which each group is measured, besides the full one.
POINTS = 3
#: Held-out batches that each loss is taken over.
BATCHES = 4


@dataclass(frozen=True)
class Calibration:
    """What widths, blocks and resolutions are worth to the loss.

    Attributes
    ----------
    worth
        In the solver's terms: values per group and width, per block, per resolution.
    curves
        Change of the held-out loss at every width of a group's domain, when it is cut alone.
    block_losses, resolution_losses
        Change of the held-out loss without a block, and at another input resolution.
    measured
        The losses behind ``curves``, as changes, by group and width: noise and all.
    dense_loss
        Held-out loss of the model itself.
    losses, seconds
        Losses measured, and how long that took; what was remembered counts for neither.
    """

    worth: Worth
    curves: Mapping[str, tuple[float, ...]]
    block_losses: Mapping[str, float]
    resolution_losses: Mapping[Side, float]
    measured: Mapping[str, Mapping[int, float]]
    dense_loss: float
    losses: int
    seconds: float

    @property
    def values(self) -> Mapping[str, tuple[float, ...]]:
        """``Domain.values`` of every group."""
        return self.worth.groups

    @property
    def blocks(self) -> Mapping[str, float]:
        """``Block.value`` of every block."""
        return self.worth.blocks

    @property
    def resolutions(self) -> Mapping[Side, float]:
        """What a problem at another resolution has as its ``constant_value``."""
        return self.worth.resolutions


def calibrate(
    captured: Captured,
    deps: Dependencies,
    domains: Mapping[str, Sequence[int]],
    data: Iterable[Any],
    loss: Loss | None = None,
    *,
    scores: Mapping[str, np.ndarray | torch.Tensor],
    blocks: Sequence[Block] = (),
    resolutions: Sequence[Side] = (),
    against: Against = "labels",
    points: int = POINTS,
    batches: int = BATCHES,
    repair: Repair | None = None,
    repair_name: str = "",
    memory: Path | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Measure what pruning does to the loss.

    Takes ``points`` losses per group and one per block and resolution, each over at most ``batches``
    batches, besides the repair before it; a smaller model is quicker than the dense one. Nothing of
    the model is changed.

    Parameters
    ----------
    captured, deps
        The model and its groups.
    domains
        For every group the widths that may be chosen, ascending, the full one last.
    data
        Held-out batches, labelled unless outputs are compared: neither trained on nor used for the
        final accuracy.
    loss
        ``(outputs, targets) -> scalar``; cross entropy by default.
    scores
        One score per unit of each group: which units are kept at a width. Only their order counts.
    blocks
        Blocks that may be removed; those with a ``reason`` are left out.
    resolutions
        Heights and widths of input images on offer besides that of the example inputs.
    against
        ``"outputs"`` takes the error of the outputs in the place of a loss: no labels are needed.
    points, batches
        See above.
    repair
        Changes a model in place as the finished one will be repaired; by default BatchNorm
        statistics are measured again. A :class:`CutRepair` fits layers, a few steps of fine-tuning tell
        more and take longer.
    repair_name
        Tells repairs apart in ``memory``; a :class:`CutRepair` has a name of its own.
    memory
        File in which losses are kept, so that an interrupted calibration goes on where it was.
    progress
        Told after each loss.

    Raises
    ------
    CriterionError
        No data or labels, a loss that is not finite on the dense model, scores that do not fit.
    RepairError
        The repair cannot run the model, or what its layers read is not finite.
    UsageError
        ``points`` or ``batches`` below one, or ``memory`` is of another repair.
    ArtifactError
        ``memory`` is another file.

    Notes
    -----
    Per-layer sensitivity by forward passes is as old as pruning (Han et al., NeurIPS 2015; Li et al.,
    ICLR 2017); error curves as an objective under a measured latency follow He et al., ECCV 2018, and
    NetAdapt (Yang et al., ECCV 2018), which measures after a short-term fine-tuning.
    """
    if points < 1 or batches < 1:
        raise UsageError(f"points is {points} and batches is {batches}", hint="both are at least 1")
    begin = time.monotonic()
    order = {name: _scores(name, scores, size) for name, size in deps.dense_widths.items() if name in domains}
    meter = Meter(captured, deps, data, loss, against=against, batches=batches, repair=repair)
    fitted: list[torch.Tensor] = []
    if isinstance(repair, CutRepair):
        repair_name, fitted = repair.options.label, repair.tensors
    facts = {
        "repair": repair_name,
        "against": against,
        "loss": "" if loss is None else getattr(loss, "__qualname__", "own"),
        # Two losses may have one name (a lambda has none); on the model itself they differ.
        "dense": f"{meter.dense:.5g}",
    }
    facts |= {name: str(np.argsort(-value, kind="stable").tolist()) for name, value in order.items()}
    weights = [value for _, value in sorted(captured.graph.state_dict().items())]
    kept = Memory(memory, digest([*weights, *meter.tensors, *fitted], facts), repair_name)
    removable = [block for block in blocks if block.reason is None]
    probes = {name: probe_widths(widths, points) for name, widths in domains.items()}
    total = sum(map(len, probes.values())) + len(removable) + len(resolutions)
    done = 0

    def change(name: str, measure: Callable[[], float]) -> float:
        nonlocal done
        found = kept.get(name)
        if found is None:
            found = measure()
            kept.put(name, found)
        done += 1
        progress(f"calibrate {name}", done, total)
        return found - meter.dense

    measured: dict[str, dict[int, float]] = {}
    for name, widths in probes.items():
        measured[name] = {
            width: change(f"{name}={width}", partial(meter.kept, {name: keep_best(order[name], width)}))
            for width in widths
        }
    without = {b.name: change(f"without {b.name}", partial(meter.without, [b])) for b in removable}
    resized = {s: change(f"at {s[0]}x{s[1]}", partial(meter.resized, s)) for s in resolutions}
    curves = {name: loss_curve(measured[name], widths) for name, widths in domains.items()}
    worth = worth_of(curves, domains, without, {b.name: b.groups for b in removable}, resized)
    return Calibration(
        worth, curves, without, resized, measured, meter.dense, meter.count, time.monotonic() - begin
    )


def _scores(group: str, scores: Mapping[str, np.ndarray | torch.Tensor], size: int) -> np.ndarray:
    found = scores.get(group)
    if found is None:
        raise CriterionError(f"group {group} has no scores", hint="score all groups by one criterion")
    value = np.asarray(found, np.float64)
    if value.shape != (size,):
        raise CriterionError(
            f"group {group} has scores of shape {value.shape} for {size} units",
            hint="scores and domains must be of one analysis",
        )
    return value
