"""What a data loader may yield, brought to one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from hwprune.errors import UsageError

#: Keys under which a dictionary batch may carry its labels.
TARGET_KEYS = ("label", "labels", "target", "targets", "y")


@dataclass(frozen=True)
class Batch:
    """One batch, split into what the model reads and what it should answer.

    ``inputs`` are positional arguments, ``named`` keyword arguments; ``target`` is ``None`` for
    an unlabelled batch.
    """

    inputs: tuple[Any, ...]
    named: Mapping[str, Any]
    target: Any

    def run(self, model: nn.Module) -> Any:
        """The model's output on this batch."""
        return model(*self.inputs, **self.named)

    @property
    def size(self) -> int:
        """Number of examples: the first dimension of the first input tensor."""
        for value in (*self.inputs, *self.named.values()):
            if isinstance(value, torch.Tensor) and value.ndim > 0:
                return int(value.shape[0])
        return 0


def split_batch(batch: Any, *, device: torch.device | None = None) -> Batch:
    """Split what a loader yielded into inputs and target.

    A tensor or a tuple of one is unlabelled; in a longer tuple or list the last entry is the
    target and the ones before it are the inputs (an input that is itself a tuple is unpacked);
    in a dictionary the target is under one of :data:`TARGET_KEYS`, a single remaining entry is
    passed by position and several are passed by name.

    Raises
    ------
    UsageError
        The batch has another form.
    """
    if isinstance(batch, Batch):
        return Batch(_move(batch.inputs, device), _move(batch.named, device), _move(batch.target, device))
    batch = _move(batch, device)
    if isinstance(batch, torch.Tensor):
        return Batch((batch,), {}, None)
    if isinstance(batch, (tuple, list)) and batch:
        items = tuple(cast("tuple[Any, ...]", batch))
        inputs, target = (items, None) if len(items) == 1 else (items[:-1], items[-1])
        if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)):
            inputs = tuple(cast("tuple[Any, ...]", inputs[0]))
        return Batch(inputs, {}, target)
    if isinstance(batch, Mapping):
        named = dict(cast("Mapping[str, Any]", batch))
        found = [key for key in TARGET_KEYS if key in named]
        if len(found) > 1:
            raise UsageError(
                f"a batch carries labels under several keys: {', '.join(found)}",
                hint="keep one of them",
            )
        target = named.pop(found[0]) if found else None
        if len(named) == 1:
            return Batch(tuple(named.values()), {}, target)
        if named:
            return Batch((), named, target)
    raise UsageError(
        f"the data loader yields {type(batch).__name__}, from which no model input can be taken",
        hint="yield a tensor, a tuple (inputs..., labels), or a dictionary",
    )


def device_of(model: nn.Module) -> torch.device | None:
    """Device of the model's first parameter or buffer; ``None`` for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def _move(value: Any, device: torch.device | None) -> Any:
    if device is None:
        return value
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (tuple, list)):
        return tuple(_move(item, device) for item in cast("tuple[Any, ...]", value))
    if isinstance(value, Mapping):
        return {key: _move(item, device) for key, item in cast("Mapping[str, Any]", value).items()}
    return value


def logits_of(outputs: Any) -> torch.Tensor:
    """The class scores in what a model returned: a tensor, ``outputs["logits"]``, or the first entry.

    Raises
    ------
    UsageError
        There is no tensor in these places.
    """
    if isinstance(outputs, Mapping):
        outputs = cast("Mapping[str, Any]", outputs).get("logits")
    elif isinstance(outputs, (tuple, list)) and outputs:
        outputs = cast("tuple[Any, ...]", outputs)[0]
    if isinstance(outputs, torch.Tensor):
        return outputs
    raise UsageError(
        f"no class scores in the model's output (found {type(outputs).__name__})",
        hint="pass loss=, a callable of (outputs, targets)",
    )
