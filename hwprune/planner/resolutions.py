"""The same network at several input resolutions: one column of costs each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CaptureError, UsageError
from hwprune.latency.fusion import fuse
from hwprune.latency.predict import LatencyModel
from hwprune.planner.network import Column
from hwprune.planner.workbench import Workbench
from hwprune.planner.worth import Side

Analyse = Callable[[Captured], Dependencies]


def open_columns(bench: Workbench, sides: Sequence[Side | int], analyse: Analyse) -> tuple[Column, ...]:
    """Capture and fuse the network of a workbench at other input resolutions.

    Parameters
    ----------
    bench
        The network at its own resolution.
    sides
        Height and width, or one number: the shorter side, the other in proportion. The network's
        own stands for itself (a column without a resolution).
    analyse
        Finds the groups of a captured model, with the options of the workbench's own.

    Raises
    ------
    UsageError
        The network has no images among its inputs, does not accept a resolution, or is another
        network there: its groups or the sizes of its outputs differ.
    """
    if not sides:
        raise UsageError("no input resolution is on offer", hint="name at least one, such as 224")
    own = image_side(bench.captured.example_inputs)
    found: dict[Side, Column] = {}
    for asked in sides:
        side = _in_proportion(asked, own) if isinstance(asked, int) else asked
        if min(side) < 1:
            raise UsageError(
                f"{asked} is not an input resolution", hint="give a number of pixels, such as 224"
            )
        if side not in found:
            found[side] = Column(bench) if side == own else Column(_at(bench, side, analyse), side)
    return tuple(found.values())


def image_side(inputs: Sequence[Any]) -> Side:
    """Height and width of the first image among the inputs.

    Raises
    ------
    UsageError
        There is none.
    """
    for value in inputs:
        if _is_image(value):
            return int(value.shape[2]), int(value.shape[3])
    raise UsageError(
        "the model has no images among its inputs, so there is no resolution to choose",
        hint="leave resolutions out",
    )


def resized(inputs: Sequence[Any], side: Side) -> tuple[Any, ...]:
    """Inputs with all images of the first one's size at another one."""
    own = image_side(inputs)

    def at_side(value: Any) -> Any:
        if not (_is_image(value) and tuple(value.shape[2:]) == own):
            return value
        return functional.interpolate(value, side, mode="bilinear", align_corners=False)

    return tuple(map(at_side, inputs))


def _at(bench: Workbench, side: Side, analyse: Analyse) -> Workbench:
    shown = f"{side[0]}x{side[1]}"
    try:
        captured = capture(bench.captured.model, resized(bench.captured.example_inputs, side))
    except CaptureError as failure:
        raise UsageError(
            f"the model does not accept images of {shown}: {failure.message}",
            hint="leave this resolution out, or resize inside the model",
        ) from failure
    deps = analyse(captured)
    here, there = ({g.name: g.size for g in d.groups} for d in (bench.deps, deps))
    if here != there:
        differ = min(here.keys() ^ there.keys() or [g for g in here if here[g] != there[g]])
        raise UsageError(
            f"at {shown} the model has other groups of channels, such as {differ!r}",
            hint="leave this resolution out, or exclude that group",
        )
    if _outputs(bench.captured) != _outputs(captured):
        raise UsageError(
            f"at {shown} the sizes of the model's outputs change: {_outputs(captured)}",
            hint="leave resolutions out, or bring the outputs to one size inside the model",
        )
    fused = fuse(captured.graph)
    model = LatencyModel(fused.families(deps.extents), bench.model.domains, untrusted=bench.model.untrusted)
    return replace(bench, captured=captured, deps=deps, fused=fused, model=model, parts={})


def _is_image(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 4 and value.is_floating_point()


def _in_proportion(shorter: int, own: Side) -> Side:
    scale = shorter / min(own)
    return round(own[0] * scale), round(own[1] * scale)


def _outputs(captured: Captured) -> list[tuple[int, ...]]:
    (last,) = [node for node in captured.graph.graph.nodes if node.op == "output"]
    tensors = [n.meta.get("val") for n in last.all_input_nodes if isinstance(n, fx.Node)]
    return [tuple(value.shape) for value in tensors if isinstance(value, torch.Tensor)]
