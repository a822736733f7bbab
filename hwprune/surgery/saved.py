"""Pruned models on disk: ``plan.json`` and ``weights.safetensors``, nothing pickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import fx, nn

from hwprune.artifact import atomic_directory, atomic_write_bytes, read_json, sha256_file, write_json
from hwprune.capture.captured import Captured
from hwprune.capture.tensors import shapes_of
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies
from hwprune.errors import ArtifactError
from hwprune.surgery.record import (
    CutRecord,
    DimensionRecord,
    SavedRecord,
    WeightsRecord,
    ranges_of,
)
from hwprune.surgery.sampler import Samplers
from hwprune.surgery.selection import select

PLAN_FILE = "plan.json"
WEIGHTS_FILE = "weights.safetensors"
_KIND, _VERSION = "hwprune.pruned", 3
#: Version 1 knew no blocks, version 2 no repairs; they read as a cut without them.
_OLDEST = 1


def save_pruned(
    directory: str | Path,
    model: nn.Module,
    captured: Captured,
    deps: Dependencies,
    keep: Mapping[str, Sequence[int]],
    plan: Mapping[str, Any] | None = None,
    *,
    submodule: str | None = None,
    blocks: Sequence[Block] = (),
    repairs: Sequence[Mapping[str, Any]] = (),
    samplers: Samplers | None = None,
) -> Path:
    """Write a pruned model.

    The directory appears complete or not at all; an earlier one written by this function is
    replaced, any other is left alone.

    Parameters
    ----------
    directory
        Where to write ``plan.json`` and ``weights.safetensors``.
    model
        Result of :func:`hwprune.surgery.prune_model`, fine-tuned or not.
    captured, deps, keep
        What the model was cut from.
    plan
        JSON values of the caller's own, given back by :func:`hwprune.surgery.load_pruned`.
    submodule
        Where in ``model`` the module sits that was captured and cut; None for ``model`` itself.
    blocks
        Blocks that are gone; groups that went with them are not in ``keep``.
    repairs
        What was done to the weights since the cut, as JSON values.
    samplers
        Layers that read only some of their input channels since the cut.

    Raises
    ------
    ArtifactError
        The place cannot be written, or the state of the model holds something besides tensors.
    """
    part = model if submodule is None else model.get_submodule(submodule)
    form: Literal["module", "graph"] = "graph" if isinstance(part, fx.GraphModule) else "module"
    shapes = shapes_of(captured.graph) | shapes_of(captured.model)
    gone = {name for block in blocks for name in block.parameters}
    cuts = {name: dims for name, dims in select(deps, keep, shapes).items() if name not in gone}
    cut = CutRecord(
        form=form,
        members={
            param: {
                dim: DimensionRecord(size=shapes[param][dim], kept=ranges_of(kept.tolist()))
                for dim, kept in dims.items()
            }
            for param, dims in cuts.items()
        },
        keep={name: ranges_of(units) for name, units in keep.items()},
        inputs=[(list(x.shape), str(x.dtype).removeprefix("torch.")) for x in captured.example_inputs],
        submodule=submodule,
        inside_heads=list(deps.inside_heads),
        prune_outputs=deps.prune_outputs,
        blocks=[block.name for block in blocks],
        identities=sorted({block.module for block in blocks}) if form == "module" else [],
        samplers={path: ranges_of(kept) for path, kept in (samplers or {}).items()},
    )
    return _write(directory, model, dict(plan or {}), cut, repairs)


def replace_weights(
    source: str | Path,
    directory: str | Path,
    model: nn.Module,
    repairs: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write a model that was loaded from ``source`` and trained or repaired further; plan and cut stay.

    ``repairs`` come after those that are there.

    Raises
    ------
    ArtifactError
        ``source`` is damaged, or ``directory`` cannot be written.
    """
    saved = read_saved(Path(source))
    return _write(directory, model, saved.plan, saved.cut, [*saved.repairs, *repairs])


def stored_cut(directory: str | Path) -> CutRecord:
    """What a saved model was cut to.

    Raises
    ------
    ArtifactError
        The directory holds no pruned model, or its file is damaged or edited.
    """
    return read_saved(Path(directory)).cut


def stored_plan(directory: str | Path) -> dict[str, Any]:
    """What was given to :func:`save_pruned` as the plan.

    Raises
    ------
    ArtifactError
        The directory holds no pruned model, or its file is damaged or edited.
    """
    return read_saved(Path(directory)).plan


def stored_repairs(directory: str | Path) -> tuple[dict[str, Any], ...]:
    """What was done to the weights of a saved model since its cut, the oldest first.

    Raises
    ------
    ArtifactError
        The directory holds no pruned model, or its file is damaged or edited.
    """
    return tuple(read_saved(Path(directory)).repairs)


def read_saved(directory: Path) -> SavedRecord:
    """Everything that a directory says beside the weights.

    Raises
    ------
    ArtifactError
        The directory holds no pruned model, or its file is damaged or edited.
    """
    try:
        return SavedRecord.model_validate(read_json(directory / PLAN_FILE, _KIND, _VERSION, oldest=_OLDEST))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{directory / PLAN_FILE}: {key}: {first['msg']}", hint="save the model again"
        ) from error


def _write(
    directory: str | Path,
    model: nn.Module,
    plan: dict[str, Any],
    cut: CutRecord,
    repairs: Sequence[Mapping[str, Any]],
) -> Path:
    tensors, shared = _unshared(model)
    with atomic_directory(directory, PLAN_FILE) as place:
        # Not save_file: a full disk is an error of ours then, not of safetensors.
        atomic_write_bytes(place / WEIGHTS_FILE, safetensors.torch.save(tensors, metadata={"format": "pt"}))
        weights = WeightsRecord(sha256=sha256_file(place / WEIGHTS_FILE), shared=shared)
        saved = SavedRecord(plan=plan, cut=cut, weights=weights, repairs=[dict(r) for r in repairs])
        write_json(place / PLAN_FILE, _KIND, _VERSION, saved.model_dump(mode="json"))
    return Path(directory)


def _unshared(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State without repeated tensors, and alias to stored name for the repeated ones."""
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            raise ArtifactError(
                f"{name!r} in the state of {type(model).__name__} is a {type(value).__name__}, not a tensor",
                hint="keep only tensors in parameters, buffers and extra state",
            )
        known = first.setdefault(id(value), name)
        if known != name:
            shared[name] = known
        else:
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, shared
