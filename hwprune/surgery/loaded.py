"""Pruned models from disk: the original architecture, cut again and filled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from hwprune.artifact import sha256_file
from hwprune.capture.export import capture
from hwprune.capture.parametrized import plain_copy
from hwprune.capture.tensors import shapes_of
from hwprune.dependency.analyse import analyse
from hwprune.dependency.blocks import find_blocks
from hwprune.errors import ArtifactError, HwpruneError
from hwprune.surgery.blocks import choose_blocks, with_identities
from hwprune.surgery.module import cut_parameters
from hwprune.surgery.part import replace_module
from hwprune.surgery.record import CutRecord, numbers_of
from hwprune.surgery.sampler import sampled
from hwprune.surgery.saved import PLAN_FILE, WEIGHTS_FILE, read_saved
from hwprune.surgery.selection import Cuts
from hwprune.surgery.shortened import cut_to_graph


@dataclass(frozen=True)
class LoadedModel:
    """A model read back, in eval mode, the plan that was stored with it, and the repairs since the cut."""

    model: nn.Module
    plan: dict[str, Any]
    repairs: tuple[dict[str, Any], ...] = ()


def load_pruned(directory: str | Path, factory: Callable[[], nn.Module]) -> LoadedModel:
    """Read a pruned model back, bit for bit.

    Parameters
    ----------
    directory
        Written by :func:`hwprune.surgery.save_pruned`.
    factory
        Builds the original, unpruned architecture (weights do not matter).

    Raises
    ------
    ArtifactError
        A file is missing, damaged or edited, or the factory builds another architecture.
    """
    directory = Path(directory)
    saved = read_saved(directory)
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
    shapes = shapes_of(dense)
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
