"""Repair of a cut model without training: its layers against the original's, then BatchNorm."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, RepairError
from hwprune.importance.batches import Batch, device_of
from hwprune.importance.modes import in_mode
from hwprune.repair.calibration import collect_batches
from hwprune.repair.least_squares import Fitting, LayerFit, reconstruct
from hwprune.repair.options import RepairOptions
from hwprune.repair.recalibrate import recalibrate_batchnorm
from hwprune.repair.regression import Ridge
from hwprune.surgery.apply import graph_tensors
from hwprune.surgery.sampler import Samplers, sample_graph
from hwprune.surgery.selection import select
from hwprune.surgery.shortened import cut_to_graph

_log = logging.getLogger(__name__)

Told = Callable[[str, int, int], None]

#: With fewer examples, networks on small images came out worse than by recalibration alone.
_FEW = 32


@dataclass(frozen=True)
class Origin:
    """What a pruned model was cut from.

    Attributes
    ----------
    original
        The dense model; with a submodule, the whole one.
    captured, deps
        Its graph and groups; with a submodule, those of the submodule.
    keep
        Group to kept units.
    blocks
        Blocks that are gone.
    submodule
        Path of the only part that was pruned, None for the whole model.
    samplers
        Layers that read only some of the channels that are left.
    """

    original: nn.Module
    captured: Captured
    deps: Dependencies
    keep: Mapping[str, Sequence[int]]
    blocks: tuple[Block, ...] = ()
    submodule: str | None = None
    samplers: Samplers = field(default_factory=dict[str, tuple[int, ...]])


@dataclass(frozen=True)
class RepairReport:
    """What a repair did.

    Attributes
    ----------
    options
        How it was asked for.
    examples
        How many were read.
    layers
        The fitted layers, in their order, each with its error before and after.
    batchnorms
        BatchNorm layers measured again.
    """

    options: RepairOptions
    examples: int
    layers: tuple[LayerFit, ...]
    batchnorms: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for the saved model."""
        return {
            "options": self.options.model_dump(mode="json"),
            "examples": self.examples,
            "layers": [asdict(layer) for layer in self.layers],
            "batchnorms": self.batchnorms,
        }


def repair_cut(
    model: nn.Module,
    origin: Origin,
    data: Iterable[Any],
    options: RepairOptions | None = None,
    *,
    progress: Told = lambda what, done, total: None,
    quiet: bool = False,
) -> RepairReport:
    """Repair a model that was cut, in place, without a step of training.

    Verify the cut first: a repaired model no longer equals the masked original. If anything fails,
    or on Ctrl-C, the model is as it was.

    Parameters
    ----------
    model
        Result of a cut, as a module or as a graph; weights that have been trained further are the
        start of the repair.
    origin
        What it was cut from.
    data
        Batches (see :func:`hwprune.importance.batches.split_batch`); labels are not used.
    options
        See :class:`RepairOptions`.
    progress
        Told before each layer.
    quiet
        Log no warnings of data that tell little or memory that is short: for many repairs of one kind.

    Raises
    ------
    RepairError
        No data, data that are not finite or do not fit the model, or a model that is not the cut one.
    """
    options = options or RepairOptions()
    part = model if origin.submodule is None else model.get_submodule(origin.submodule)
    batches = collect_batches(data, options.examples, device_of(model))
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    fits: tuple[LayerFit, ...] = ()
    batchnorms = 0
    try:
        if options.method != "none":
            fits = _fit(part, origin, batches, options, progress, quiet=quiet)
            if not quiet:
                _warn(fits, batches, options)
        if options.recalibrate:
            progress("recalibrate", 0, 1)
            batchnorms = recalibrate_batchnorm(model, batches, batches=len(batches))
    except BaseException as error:
        with torch.no_grad():
            for name, tensor in named_tensors(model).items():
                tensor.copy_(before[name])
        if isinstance(error, CriterionError):  # rows that are not finite, batches that do not fit
            raise RepairError(error.message, hint=error.hint) from error
        raise
    return RepairReport(options, sum(max(1, batch.size) for batch in batches), fits, batchnorms)


def _fit(
    part: nn.Module,
    origin: Origin,
    batches: list[Batch],
    options: RepairOptions,
    progress: Told,
    *,
    quiet: bool,
) -> tuple[LayerFit, ...]:
    assert options.method != "none"
    captured, deps = origin.captured, origin.deps
    if origin.submodule is not None:
        batches = _inside(origin.original, origin.submodule, batches)
    owned = named_tensors(part)
    pruned = _as_graph(part, owned, origin)
    device = device_of(part)
    original = captured.graph
    if device is not None and device_of(original) != device:
        original, pruned = copy.deepcopy(original).to(device), pruned.to(device)
    shapes = {name: tuple(value.shape) for name, value in graph_tensors(captured.graph).items()}
    kept = {name: dims[0] for name, dims in select(deps, origin.keep, shapes).items() if 0 in dims}
    fitting = Fitting(
        method=options.method,
        ridge=Ridge(options.ridge, options.towards_zero, options.intercept),
        positions=options.positions,
        residual=options.residual,
        every_layer=options.every_layer,
        seed=options.seed,
        memory_bytes=options.memory_gb * 1e9,
        quiet=quiet,
    )
    with in_mode(original, training=False):
        fits = reconstruct(original, pruned, kept, owned, batches, fitting, progress)
    with torch.no_grad():
        for name, value in graph_tensors(pruned).items():
            mine = owned.get(name)
            if mine is not None and not torch.equal(mine, value):
                mine.copy_(value)
    return fits


def _warn(fits: Sequence[LayerFit], batches: Sequence[Batch], options: RepairOptions) -> None:
    """Where a fit is likely to disappoint."""
    warn_of_few(batches)
    short = [fit.weight for fit in fits if fit.rows < fit.columns]
    if short and options.method == "least_squares":
        _log.warning(
            "%d layers (the first is %s) have fewer sampled positions than inputs, so that the ridge decides "
            "on part of their weights: more examples or positions would tell more",
            len(short),
            short[0],
        )
    if not fits:
        _log.warning("no layer of the model lost input channels that a fit could make up for")


def warn_of_few(batches: Sequence[Batch]) -> None:
    """Say so where there are too few examples to fit layers to."""
    examples = sum(max(1, batch.size) for batch in batches)
    if examples < _FEW:
        _log.warning(
            "layers are fitted to %d examples only: what they do not show is lost; give a few hundred, or"
            " recalibrate alone",
            examples,
        )


def warn_of_training(history: Iterable[Mapping[str, Any]]) -> None:
    """Say so where a model to be fitted to the dense one was trained since its cut.

    ``history`` is what :func:`hwprune.surgery.saved.stored_repairs` gives.
    """
    if any(record.get("finetune_steps") or record.get("rounds") for record in history):
        _log.warning(
            "the model was trained since its cut: layers fitted to the dense model do not go with what the "
            "training made of the others, and accuracy may fall; fit before training, or fit nothing"
        )


def _as_graph(part: nn.Module, owned: Mapping[str, torch.Tensor], origin: Origin) -> fx.GraphModule:
    """The graph form of the pruned model, with copies of the weights that it has now."""
    graph = cut_to_graph(origin.captured, origin.deps, origin.keep, origin.blocks)
    sample_graph(graph, origin.samplers)
    with torch.no_grad():
        for name, value in graph_tensors(graph).items():
            mine = owned.get(name)
            if mine is None:
                continue
            if mine.shape != value.shape:
                raise RepairError(
                    f"{name} of the model has shape {tuple(mine.shape)}, "
                    f"the cut makes it {tuple(value.shape)}",
                    hint="repair the model that this plan was cut to, or cut it again",
                )
            if mine.dtype != value.dtype:
                raise RepairError(
                    f"{name} of the pruned model is {mine.dtype}, of the original {value.dtype}",
                    hint="repair before the model is converted",
                )
            value.copy_(mine)
    return graph


def _inside(model: nn.Module, path: str, batches: Iterable[Batch]) -> list[Batch]:
    """What a submodule is called with when the whole model runs on data."""
    calls: list[Batch] = []

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        calls.append(Batch(tuple(leaves), {}, None))

    hook = model.get_submodule(path).register_forward_pre_hook(record, with_kwargs=True)
    try:
        with torch.no_grad(), in_mode(model, training=False):
            for batch in batches:
                batch.run(model)
    finally:
        hook.remove()
    if not calls:
        raise RepairError(f"the model does not call {path!r} on the data", hint="check the data")
    return calls
