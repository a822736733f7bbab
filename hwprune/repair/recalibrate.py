"""BatchNorm statistics measured again after surgery."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from hwprune.errors import RepairError
from hwprune.importance.batches import device_of, split_batch
from hwprune.importance.modes import in_mode

_log = logging.getLogger(__name__)

# The ways to BatchNorm and the order of their leading arguments (x, weight, bias, mean, var).
_ATEN_ORDER = (0, 1, 2, 3, 4)
_ENTRIES: dict[Any, tuple[int, ...]] = {
    torch.batch_norm: _ATEN_ORDER,
    torch.ops.aten.batch_norm: _ATEN_ORDER,
    torch.ops.aten.batch_norm.default: _ATEN_ORDER,
    F.batch_norm: (0, 3, 4, 1, 2),
}
_ATEN_NAMES = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
_FUNCTIONAL_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class _Recalibration(TorchFunctionMode):
    """Runs every BatchNorm that has running statistics on its batch, and averages them.

    Intercepting the call, rather than switching modules to training mode, serves modules and
    captured graphs alike and leaves dropout and everything else in evaluation mode.
    """

    def __init__(self, names: dict[int, str], *, reset: bool) -> None:
        super().__init__()
        self._names = names
        self._reset = reset
        self.visits: dict[int, int] = {}
        self.statistics: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def name(self, key: int) -> str:
        return self._names.get(key, "an unnamed BatchNorm")

    def restore(self) -> None:
        """Put back the statistics from before (after a failure)."""
        for key, (mean, var) in self.statistics.items():
            mean.copy_(self._before[key][0])
            var.copy_(self._before[key][1])

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        order = _ENTRIES.get(func)
        if order is None:
            return func(*args, **(kwargs or {}))
        names = _FUNCTIONAL_NAMES if func is F.batch_norm else _ATEN_NAMES
        call: dict[str, Any] = {"weight": None, "bias": None, "momentum": 0.1, "eps": 1e-5}
        call.update(zip(names, args, strict=False))
        call.update(kwargs or {})
        mean, var = call["running_mean"], call["running_var"]
        if mean is None or var is None:
            return func(*args, **(kwargs or {}))
        return self._update(call, mean, var)

    def _update(self, call: dict[str, Any], mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = call["input"]
        key = id(mean)
        if x.numel() <= x.shape[1]:
            raise RepairError(
                f"cannot recalibrate {self.name(key)}: its input of shape {tuple(x.shape)} holds one value "
                "per channel, which has no variance",
                hint="use batches of two examples or more (drop_last=True for a short last batch)",
            )
        if key not in self.visits:
            self.visits[key] = 0
            self.statistics[key] = (mean, var)
            self._before[key] = (mean.clone(), var.clone())
            if self._reset:
                mean.zero_()
                var.fill_(1.0)
        self.visits[key] += 1
        # The k-th update with momentum 1/k is the plain average of all k batches.
        momentum = 1.0 / self.visits[key] if self._reset else (call["momentum"] or 0.1)
        return torch.batch_norm(
            x,
            call["weight"],
            call["bias"],
            mean,
            var,
            True,
            momentum,
            call["eps"],
            torch.backends.cudnn.enabled,
        )


def recalibrate_batchnorm(
    model: nn.Module, loader: Iterable[Any], *, batches: int = 100, reset: bool = True
) -> int:
    """Re-estimate the running mean and variance of every BatchNorm, without gradients.

    Removing channels shifts the activations behind them, so the statistics of the dense model no
    longer fit. Each layer normalises by the batch while it is measured (as in training) and its
    statistics become the plain average over the batches (variances unbiased); dropout and all
    else stay in evaluation mode. Works on modules and on captured graphs. After an error the old
    statistics are put back.

    Parameters
    ----------
    model
        Changed in place: running statistics (and ``num_batches_tracked``) only.
    loader
        Yields tensors, tuples or dictionaries (see :func:`hwprune.importance.batches.split_batch`);
        labels are ignored.
    batches
        At most so many batches are read.
    reset
        Forget the old statistics. ``False`` blends the new ones in with each layer's own momentum.

    Returns
    -------
    int
        Number of BatchNorm layers measured; 0 (and a log line) for a model without any.

    Raises
    ------
    RepairError
        The loader is empty, a layer sees one value per channel, or statistics are not finite.

    Notes
    -----
    MetaPruning (Liu et al., ICCV 2019) evaluates its sub-networks this way.
    """
    if batches < 1:
        raise RepairError(f"batches is {batches}", hint="read one batch or more")
    names = {id(tensor): name.removesuffix(".running_mean") for name, tensor in model.named_buffers()}
    device = device_of(model)
    mode = _Recalibration(names, reset=reset)
    seen = 0
    with torch.no_grad(), in_mode(model, training=False):
        try:
            for raw in loader:
                batch = split_batch(raw, device=device)
                with mode:
                    batch.run(model)
                seen += 1
                if seen == batches or not mode.visits:
                    break
            _check(mode, seen)
        except BaseException:
            mode.restore()
            raise
        if not mode.visits:
            _log.info("no BatchNorm with running statistics in the model: nothing to recalibrate")
        _set_counters(model, mode, reset=reset)
    return len(mode.visits)


def _check(mode: _Recalibration, seen: int) -> None:
    if seen == 0:
        raise RepairError("the data loader for recalibration is empty", hint="pass a loader with data")
    for key, (mean, var) in mode.statistics.items():
        if not (torch.isfinite(mean).all() and torch.isfinite(var).all()):
            raise RepairError(
                f"recalibrating {mode.name(key)} gave statistics that are not finite",
                hint="look for NaN or infinite values in the data or in the weights before this layer",
            )


def _set_counters(model: nn.Module, mode: _Recalibration, *, reset: bool) -> None:
    owners = [module for module in model.modules() if getattr(module, "running_mean", None) is not None]
    for module in owners:
        counter = getattr(module, "num_batches_tracked", None)
        visits = mode.visits.get(id(module.running_mean))
        if isinstance(counter, torch.Tensor) and visits is not None:
            counter.fill_(visits if reset else int(counter) + visits)
