"""What a model on disk was cut from, put together again from the dense model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from hwprune.capture.export import capture
from hwprune.dependency.analyse import analyse
from hwprune.dependency.blocks import find_blocks
from hwprune.errors import HwpruneError, RepairError
from hwprune.repair.after_cut import Origin
from hwprune.surgery.blocks import choose_blocks
from hwprune.surgery.record import numbers_of
from hwprune.surgery.saved import stored_cut


def origin_of(directory: str | Path, dense: nn.Module) -> Origin:
    """The origin of a saved pruned model, for :func:`hwprune.repair.repair_cut`.

    Parameters
    ----------
    directory
        Written by :func:`hwprune.surgery.save_pruned`.
    dense
        The model that it was cut from, with its weights.

    Raises
    ------
    ArtifactError
        The directory holds no pruned model.
    RepairError
        ``dense`` is another model.
    """
    cut = stored_cut(directory)
    part = dense if cut.submodule is None else dense.get_submodule(cut.submodule)
    inputs = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in cut.inputs)
    try:
        captured = capture(part, inputs)
        deps = analyse(captured, inside_heads=cut.inside_heads, prune_outputs=cut.prune_outputs)
        blocks = choose_blocks(find_blocks(captured, deps), cut.blocks) if cut.blocks else ()
    except HwpruneError as error:
        raise RepairError(
            f"the dense model is not the one that {directory} was cut from: {error.message}",
            hint="give the model and the weights that were pruned",
        ) from error
    known = deps.dense_widths
    keep = {name: numbers_of(ranges) for name, ranges in cut.keep.items()}
    unknown = [name for name, units in keep.items() if units[-1] >= known.get(name, 0)]
    if unknown:
        raise RepairError(
            f"the dense model has no group {unknown[0]!r} as wide as that of {directory}",
            hint="give the model and the weights that were pruned",
        )
    samplers = {path: numbers_of(ranges) for path, ranges in cut.samplers.items()}
    return Origin(dense, captured, deps, keep, blocks, cut.submodule, samplers)
