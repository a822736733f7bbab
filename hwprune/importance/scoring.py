"""The front door: scores by a named criterion, checked."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.dependency.groups import Dependencies
from hwprune.errors import CriterionError, UsageError
from hwprune.importance.batches import device_of
from hwprune.importance.data import CriterionData
from hwprune.importance.registry import Criterion, Loss, available, get

_log = logging.getLogger(__name__)


def score(
    captured: Captured,
    deps: Dependencies,
    criterion: str | Criterion = "taylor2019",
    data: Iterable[Any] | None = None,
    *,
    loss: Loss | None = None,
    batches: int = 32,
    **params: Any,
) -> dict[str, torch.Tensor]:
    """Score every unit of every group.

    Parameters
    ----------
    captured, deps
        The model and its groups.
    criterion
        A registered name, perhaps with parameters (see :func:`hwprune.importance.get`), or a criterion.
    data
        Loader of tensors, tuples or dictionaries (see
        :func:`hwprune.importance.batches.split_batch`); needed by criteria with data.
    loss
        ``(outputs, targets) -> scalar``; cross entropy by default.
    batches
        At most so many batches are read.
    params
        Parameters of the named criterion.

    Returns
    -------
    dict
        Per group a float64 tensor ``[size]`` on the CPU; higher means keep.

    Raises
    ------
    CriterionError
        Data or labels are missing, the loader is empty, a weight of a group is not finite, or the scores
        are not finite or of a wrong shape.
    UsageError
        Unknown criterion or parameter.
    """
    if isinstance(criterion, str):
        criterion = get(criterion, **params)
    elif params:
        raise UsageError(
            f"parameters {', '.join(params)} beside a criterion that is made already",
            hint="give them to its constructor",
        )
    if batches < 1:
        raise UsageError(f"batches is {batches}", hint="read one batch or more")
    wrapped = None
    if criterion.data_need != "none":
        if data is None:
            raise CriterionError(
                f"criterion {criterion.name} needs {criterion.data_need} data, and none was given",
                hint=f"give data, or use a criterion without data: {', '.join(available(data_need='none'))}",
            )
        labelled = criterion.data_need == "labelled"
        wrapped = CriterionData(
            data,
            criterion=criterion.name,
            limit=batches,
            # A loss of one's own may do without targets.
            labelled=labelled and loss is None,
            device=device_of(captured.graph),
        )
    _require_finite_weights(captured, deps, criterion.name)
    scores = criterion.score(captured, deps, wrapped, loss=loss)
    _log.info("scored %d groups by %s", len(scores), criterion.name)
    return _checked(scores, deps, criterion.name)


def _require_finite_weights(captured: Captured, deps: Dependencies, criterion: str) -> None:
    """Refuse weights that are NaN or infinite by name, before they pass for scores or losses."""
    tensors = named_tensors(captured.graph)
    for name in dict.fromkeys(member.param for group in deps.groups for member in group.members):
        value = tensors[name].detach()
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise CriterionError(
                f"{bad} of {value.numel()} values of {name} are NaN or infinite, so criterion {criterion} "
                "can score nothing",
                hint="load weights of a training run that did not diverge",
            )


def _checked(scores: dict[str, torch.Tensor], deps: Dependencies, criterion: str) -> dict[str, torch.Tensor]:
    hint = f"this is a fault of criterion {criterion}; use another one"
    unknown = scores.keys() - {g.name for g in deps.groups}
    if unknown:
        raise CriterionError(f"criterion {criterion} scored unknown groups {sorted(unknown)}", hint=hint)
    checked: dict[str, torch.Tensor] = {}
    for group in deps.groups:
        if group.name not in scores:
            raise CriterionError(f"criterion {criterion} gave no scores for group {group.name}", hint=hint)
        value = scores[group.name].detach().cpu().double()
        if tuple(value.shape) != (group.size,):
            raise CriterionError(
                f"criterion {criterion} gave scores of shape {tuple(value.shape)} for group {group.name} of "
                f"{group.size} channels",
                hint=hint,
            )
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise CriterionError(
                f"criterion {criterion} gave {bad} scores that are not finite in group {group.name}",
                hint="look for NaN or infinite values in the weights and the data",
            )
        checked[group.name] = value
    return checked
