"""Pruned models on disk: ``plan.json`` and ``weights.safetensors``, nothing pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import fx, nn

from hwprune.artifact import atomic_directory, atomic_write_bytes, read_json, sha256_file, write_json
from hwprune.capture.captured import Captured
from hwprune.capture.export import capture
from hwprune.capture.parametrized import plain_copy
from hwprune.dependency.analyse import analyse
from hwprune.dependency.blocks import Block, find_blocks
from hwprune.dependency.groups import Dependencies
from hwprune.errors import ArtifactError, HwpruneError
from hwprune.surgery.blocks import choose_blocks, with_identities
from hwprune.surgery.module import cut_parameters
from hwprune.surgery.part import replace_module
from hwprune.surgery.record import (
    CutRecord,
    DimensionRecord,
    SavedRecord,
    WeightsRecord,
    numbers_of,
    ranges_of,
)
from hwprune.surgery.sampler import Samplers, sampled
from hwprune.surgery.selection import Cuts, select
from hwprune.surgery.shortened import cut_to_graph

PLAN_FILE = "plan.json"
WEIGHTS_FILE = "weights.safetensors"
_KIND, _VERSION = "hwprune.pruned", 3
#: Version 1 knew no blocks, version 2 no repairs; they read as a cut without them.
_OLDEST = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model read back, in eval mode, the plan that was stored with it, and the repairs since the cut."""

    model: nn.Module
    plan: dict[str, Any]
    repairs: tuple[dict[str, Any], ...] = ()


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
        JSON values of the caller's own, given back by :func:`load_pruned`.
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
    shapes = _shapes(captured.graph) | _shapes(captured.model)
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
    saved = _read(Path(source))
    return _write(directory, model, saved.plan, saved.cut, [*saved.repairs, *repairs])


def stored_cut(directory: str | Path) -> CutRecord:
    """What a saved model was cut to.

    Raises
    ------
    ArtifactError
        The directory holds no pruned model, or its file is damaged or edited.
    """
    return _read(Path(directory)).cut


def stored_repairs(directory: str | Path) -> tuple[dict[str, Any], ...]:
    """What was done to the weights of a saved model since its cut, the oldest first.

    Raises
    ------
    ArtifactError
        The directory holds no pruned model, or its file is damaged or edited.
    """
    return tuple(_read(Path(directory)).repairs)


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


def _read(directory: Path) -> SavedRecord:
    try:
        return SavedRecord.model_validate(read_json(directory / PLAN_FILE, _KIND, _VERSION, oldest=_OLDEST))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{directory / PLAN_FILE}: {key}: {first['msg']}", hint="save the model again"
        ) from error


def load_pruned(directory: str | Path, factory: Callable[[], nn.Module]) -> LoadedModel:
    """Read a pruned model back, bit for bit.

    Parameters
    ----------
    directory
        Written by :func:`save_pruned`.
    factory
        Builds the original, unpruned architecture (weights do not matter).

    Raises
    ------
    ArtifactError
        A file is missing, damaged or edited, or the factory builds another architecture.
    """
    directory = Path(directory)
    saved = _read(directory)
    weights = directory / WEIGHTS_FILE
    if sha256_file(weights) != saved.weights.sha256:
        raise ArtifactError(
            f"{weights} does not match the checksum in {PLAN_FILE}", hint="restore the original file"
        )
    model = factory()
    if saved.cut.submodule is None:
        model = _cut(model, saved.cut, directory)
    else:
        try:
            part = model.get_submodule(saved.cut.submodule)
        except AttributeError as error:
            raise _other_architecture(directory, str(error)) from error
        model = replace_module(model, saved.cut.submodule, _cut(part, saved.cut, directory))
    state = safetensors.torch.load_file(weights)
    state.update({alias: state[name] for alias, name in saved.weights.shared.items()})
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise _other_architecture(directory, str(error).splitlines()[-1].strip()) from error
    return LoadedModel(model.eval(), saved.plan, tuple(saved.repairs))


def stored_plan(directory: str | Path) -> dict[str, Any]:
    """What was given to :func:`save_pruned` as the plan.

    Raises
    ------
    ArtifactError
        The directory holds no pruned model, or its file is damaged or edited.
    """
    return _read(Path(directory)).plan


def _cut(dense: nn.Module, cut: CutRecord, directory: Path) -> nn.Module:
    if cut.form == "graph":
        inputs = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in cut.inputs)
        keep = {name: numbers_of(ranges) for name, ranges in cut.keep.items()}
        try:
            captured = capture(dense, inputs)
            deps = analyse(captured, inside_heads=cut.inside_heads, prune_outputs=cut.prune_outputs)
            blocks = choose_blocks(find_blocks(captured, deps), cut.blocks) if cut.blocks else ()
            return _sampled(cut_to_graph(captured, deps, keep, blocks), cut)
        except HwpruneError as error:
            raise _other_architecture(directory, error.message) from error
    dense = plain_copy(dense)
    shapes = _shapes(dense)
    cuts: Cuts = {}
    for param, dims in cut.members.items():
        for dim, dimension in dims.items():
            shape = shapes.get(param)
            if shape is None or dim >= len(shape) or shape[dim] != dimension.size:
                raise _other_architecture(
                    directory, f"{param!r} is {shape}, and dimension {dim} should have size {dimension.size}"
                )
            cuts.setdefault(param, {})[dim] = torch.tensor(numbers_of(dimension.kept), dtype=torch.int64)
    return _sampled(cut_parameters(with_identities(dense, cut.identities), cuts), cut)


def _sampled(model: nn.Module, cut: CutRecord) -> nn.Module:
    if not cut.samplers:
        return model
    return sampled(model, {path: numbers_of(ranges) for path, ranges in cut.samplers.items()})


def _other_architecture(directory: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"the factory does not build the architecture that {directory} was pruned from: {reason}",
        hint="pass a function that builds the original, unpruned model",
    )


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


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tuple(tensor.shape) for name, tensor in named}
