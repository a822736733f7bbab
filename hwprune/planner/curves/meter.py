"""The loss of a model from which something was taken, after the repair that will really be applied."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from hwprune.capture.captured import Captured
from hwprune.capture.copies import quiet_copy
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.batches import Batch, device_of, logits_of
from hwprune.importance.data import CriterionData, batch_loss
from hwprune.importance.modes import in_mode
from hwprune.importance.registry import Loss
from hwprune.repair.cut_repair import CutRepair
from hwprune.repair.recalibrate import recalibrate_batchnorm
from hwprune.surgery.apply import cut_graph
from hwprune.surgery.blocks import without_blocks

#: What a loss compares the outputs with.
Against = Literal["labels", "outputs"]
#: Changes a model in place, as it will be repaired after pruning; or, where the repair depends on what
#: was cut, makes such a function.
Repair = Callable[[nn.Module], object] | CutRepair
#: Kept units per group, and blocks that are gone.
Cut = tuple[Mapping[str, Sequence[int]], Sequence[Block]]
#: Stands where a criterion is named in messages about data.
_NAME = "calibration, which reads held-out batches"


class Meter:
    """Mean loss over a few held-out batches, of a model and of what is left of it.

    Parameters
    ----------
    captured, deps
        The model and its groups; neither is changed.
    data
        Labelled held-out batches (see :func:`hwprune.importance.batches.split_batch`); with a
        ``loss`` of one's own, labels are its business.
    loss
        ``(outputs, targets) -> scalar``; cross entropy by default.
    against
        ``"labels"``, or ``"outputs"``: the loss is then the squared difference from the outputs of the
        model itself, over their square (a reconstruction error, which needs no labels).
    batches
        At most so many batches are read and kept.
    repair
        Applied to every smaller model before its loss is taken. By default BatchNorm statistics are
        measured again on the same batches (labels play no part in that).

    Raises
    ------
    CriterionError
        There is no batch, it has no labels, or the model's loss on it is not finite.
    UsageError
        Another ``against``, or a ``loss`` beside the comparison of outputs.
    """

    def __init__(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Any],
        loss: Loss | None = None,
        *,
        against: Against = "labels",
        batches: int = 4,
        repair: Repair | None = None,
    ) -> None:
        if against not in ("labels", "outputs"):
            raise UsageError(f"no loss against {against!r}", hint="use 'labels' or 'outputs'")
        if against == "outputs" and loss is not None:
            raise UsageError("an own loss beside the comparison of outputs", hint="give one of the two")
        self.captured, self.deps = captured, deps
        self._loss = loss
        self._batches: list[Batch] = list(
            CriterionData(
                data,
                criterion=_NAME,
                limit=batches,
                labelled=loss is None and against == "labels",
                device=device_of(captured.graph),
            )
        )
        if against == "outputs":
            self._loss = reconstruction_error
            self._batches = [replace(batch, target=self._outputs(batch)) for batch in self._batches]
        self._repair = repair or self._recalibrate
        self.examples = sum(max(1, batch.size) for batch in self._batches)
        #: Losses taken so far, each a pass over all batches beside its repair.
        self.count = 0
        try:
            self.dense = self.of(captured.graph)
        except UsageError as error:
            raise CriterionError(
                f"the model does not take the held-out batches: {error.message}",
                hint="give batches of the shape of the example inputs, of any batch size",
            ) from error

    def _outputs(self, batch: Batch) -> torch.Tensor:
        with torch.no_grad(), in_mode(self.captured.graph, training=False):
            return logits_of(batch.run(self.captured.graph))

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The held-out data: what losses depend on besides the model."""
        found: list[torch.Tensor] = []
        for batch in self._batches:
            values = (*batch.inputs, *batch.named.values(), batch.target)
            found += [value for value in values if isinstance(value, torch.Tensor)]
        return found

    def of(self, model: nn.Module) -> float:
        """Mean loss of a model as it is, over all examples.

        Raises
        ------
        CriterionError
            The model does not run, or its loss is not finite.
        """
        self.count += 1
        total = 0.0
        with torch.no_grad(), in_mode(model, training=False):
            for batch in self._batches:
                total += max(1, batch.size) * float(batch_loss(model, batch, self._loss, criterion=_NAME))
        return total / self.examples

    def repaired(self, model: nn.Module, repair: Repair | None = None, cut: Cut | None = None) -> float:
        """Mean loss of a model after its repair, which changes it.

        ``cut`` says what the model was cut to, for a repair that depends on it; statistics of a model
        that was not cut are measured again in that case. A repair that makes the loss infinite counts
        as an infinite loss: nothing is worse.
        """
        repair = repair or self._repair
        if isinstance(repair, CutRepair):
            repair = repair.of(self.captured, self.deps, *cut) if cut else self._recalibrate
        repair(model)
        try:
            return self.of(model)
        except CriterionError as error:
            if "the loss is" in error.message:
                return float("inf")
            raise

    def kept(self, keep: Mapping[str, Sequence[int]]) -> float:
        """Mean loss with only these units of these groups, repaired. Other groups stay whole."""
        return self.repaired(cut_graph(self.captured, self.deps, keep), cut=(keep, ()))

    def choice(
        self, keep: Mapping[str, Sequence[int]], removed: Sequence[Block], repair: Repair | None = None
    ) -> float:
        """Mean loss of a whole plan, repaired (by ``repair``, or in the meter's own way).

        ``keep`` is without the groups that go with the removed blocks.
        """
        model = cut_graph(self.captured, self.deps, keep)
        if removed:
            model = without_blocks(replace(self.captured, graph=model), removed)
        return self.repaired(model, repair, (keep, removed))

    def without(self, blocks: Sequence[Block]) -> float:
        """Mean loss without some residual blocks, repaired."""
        return self.repaired(without_blocks(self.captured, blocks), cut=({}, blocks))

    def resized(self, side: tuple[int, int]) -> float:
        """Mean loss of the model when its images come at another resolution, repaired.

        Images are the tensors of the held-out data whose height and width are those of an example
        input; they are resized bilinearly. Labels are not: a loss over maps must fit them itself.

        Raises
        ------
        CriterionError
            The data holds no images, or the model does not take smaller ones.
        """
        images = {tuple(x.shape[-2:]) for x in self.captured.example_inputs if x.ndim == 4}
        whole = self._batches
        self._batches = [_resize(batch, side, images) for batch in whole]
        try:
            return self.repaired(quiet_copy(self.captured.model))
        finally:
            self._batches = whole

    def _recalibrate(self, model: nn.Module) -> object:
        return recalibrate_batchnorm(model, self._batches, batches=len(self._batches))


def reconstruction_error(outputs: Any, wanted: torch.Tensor) -> torch.Tensor:
    """Squared difference of a model's outputs from the wanted ones, over the square of those."""
    found = logits_of(outputs)
    if found.shape != wanted.shape:
        raise CriterionError(
            f"outputs of shape {tuple(found.shape)} cannot be compared with {tuple(wanted.shape)}",
            hint="calibrate against labels, with a loss that fits them",
        )
    return (found - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


def _resize(batch: Batch, side: tuple[int, int], images: Container[tuple[int, ...]]) -> Batch:
    changed = 0

    def one(value: Any) -> Any:
        nonlocal changed
        if isinstance(value, torch.Tensor) and value.ndim == 4 and tuple(value.shape[-2:]) in images:
            changed += 1
            return nn.functional.interpolate(value, size=side, mode="bilinear", align_corners=False)
        return value

    inputs = tuple(one(value) for value in batch.inputs)
    named = {name: one(value) for name, value in batch.named.items()}
    if not changed:
        raise CriterionError(
            "the held-out data holds no images of the example inputs' height and width",
            hint="give batches whose images have the shape of the example inputs",
        )
    return Batch(inputs, named, batch.target)
