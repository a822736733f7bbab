"""Options of repair and of fine-tuning, as they stand in a configuration file."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwprune.errors import UsageError
from hwprune.validated import validated

Method = Literal["least_squares", "scales", "none"]


class FinetuneOptions(BaseModel):
    """How a pruned model is trained further.

    Attributes
    ----------
    optimizer
        ``"sgd"`` (with ``momentum`` and ``nesterov``) or ``"adamw"``.
    lr
        Peak learning rate, reached after the warm-up.
    final_lr_ratio
        The cosine ends at ``lr * final_lr_ratio``.
    weight_decay
        Applied to matrices and filters only, not to norms and biases.
    epochs, steps
        Length of training. ``steps`` (optimizer steps in all) wins over ``epochs``.
    steps_per_epoch
        Steps after which an epoch ends; by default the length of the loader.
    warmup_fraction
        Share of all steps over which the learning rate rises linearly.
    label_smoothing
        Of the default cross-entropy loss.
    clip_norm
        Largest norm of all gradients together; ``None`` leaves them.
    distill_alpha, temperature
        With a teacher the loss is ``(1 - alpha) * task + alpha * distillation``; unlabelled
        batches use distillation alone.
    keep_best
        End with the weights of the best evaluation instead of the last.
    seed
        Seeds Python, NumPy and torch for the run; the caller's generators are put back after it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    final_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)
    epochs: int = Field(default=10, ge=1)
    steps: int | None = Field(default=None, ge=1)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    distill_alpha: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    keep_best: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> FinetuneOptions:
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0: set nesterov = false or momentum = 0.9")
        return self


class RepairOptions(BaseModel):
    """How a pruned model is repaired without training; no labels are needed.

    Attributes
    ----------
    method
        ``"least_squares"``: layers that lost input channels are fitted to the original's outputs, one
        after another (He, Zhang and Sun, ICCV 2017). ``"scales"``: one factor per remaining channel
        is fitted instead of whole weights (ThiNet; Luo, Wu and Lin, ICCV 2017). ``"none"``.
    ridge
        Holds fitted weights back, relative to the mean variance of an input. With fewer sampled
        positions than weights per output it decides what the data do not say.
    towards_zero
        The ridge is towards weights of zero, not towards those that are there.
    intercept
        Fit biases, too (or the mean of the BatchNorm behind the layer); not with ``"scales"``.
    residual
        The last layer of a residual branch makes up for what the shortcut has lost.
    every_layer
        Fit layers that lost no input channel, too.
    recalibrate
        Measure BatchNorm statistics again, in the end.
    examples
        At most so many are read.
    positions
        Sampled positions per example. None: enough for four per weight and output, at least 10.
    memory_gb
        What activations of all examples between two layers may take. With less it takes longer.
    seed
        Of the positions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "least_squares"
    ridge: float = Field(default=1e-3, ge=0)
    towards_zero: bool = False
    intercept: bool = True
    residual: bool = True
    every_layer: bool = False
    recalibrate: bool = True
    examples: int = Field(default=512, ge=1)
    positions: int | None = Field(default=None, ge=1)
    memory_gb: float = Field(default=1.0, gt=0)
    seed: int = 0

    @property
    def label(self) -> str:
        """The method and what differs from its defaults, as :func:`read_repair` reads it."""
        own = self.model_dump(mode="json", exclude={"method"}, exclude_defaults=True)
        return ":".join([self.method, *(f"{name}={json.dumps(value)}" for name, value in own.items())])


def repair_options(**values: Any) -> RepairOptions:
    """:class:`RepairOptions` from values of a command line or a call.

    Raises
    ------
    UsageError
        There is no such option, or it is out of range.
    """
    return validated(RepairOptions, values, "the repair")


def finetune_options(**values: Any) -> FinetuneOptions:
    """:class:`FinetuneOptions` from values of a command line or a call.

    Raises
    ------
    UsageError
        There is no such option, or it is out of range.
    """
    return validated(FinetuneOptions, values, "the training")


def read_repair(text: str) -> RepairOptions:
    """Options as they are written in one word: ``"least_squares"``, ``"scales:ridge=0.01:examples=128"``.

    Raises
    ------
    UsageError
        There is no such method or option, or an option is out of range.
    """
    method, *written = text.split(":")
    values: dict[str, Any] = {"method": method.strip().replace("-", "_")}
    for part in written:
        name, equals, value = part.partition("=")
        if not equals or name in values:
            raise UsageError(
                f"{part!r} behind the repair {method!r} is {'no option' if not equals else 'given twice'}",
                hint=f"write {method}:examples=128",
            )
        values[name] = value
    return repair_options(**values)


def asked_repair(asked: RepairOptions | str | None, data: object) -> RepairOptions | None:
    """Options from what a caller asked for: options, a method (see :func:`read_repair`), or nothing.

    Raises
    ------
    UsageError
        There is no such method, or there are no data for it.
    """
    if asked is not None and data is None:
        raise UsageError("a repair needs data", hint="give data; labels are not needed")
    return read_repair(asked) if isinstance(asked, str) else asked
