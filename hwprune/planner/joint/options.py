"""Options of the joint search, as they stand in a configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwprune.validated import validated


class JointOptions(BaseModel):
    """How widths, depth and resolution are searched for.

    Attributes
    ----------
    iterations
        Steps of the shared weights in all.
    warmup
        Share of them in which only the weights are trained (largest, smallest and random networks).
    samples
        Networks near the vector whose gradients are averaged in each step of the weights.
    pairs
        Antithetic pairs of networks in each step of the vector.
    every
        Steps of the weights between two steps of the vector.
    sigma, sigma_end
        Perturbation of the vector, relative to each coordinate, at first and in the end.
    eta, eta_end
        Length of a step of the vector, at first and in the end.
    penalty
        Weight of the squared relative excess over the budget beside the loss.
    optimizer, lr, momentum, weight_decay, clip_norm
        Of the shared weights; ``lr`` falls along a cosine.
    candidates
        Networks within the budget near the final vector, of which the one with the least loss is
        taken.
    refine
        Steps of the vector, without training, when the problem has changed after the search.
    recalibration_batches, evaluation_batches
        Training batches that BatchNorm statistics of a candidate are taken from, and held-out batches
        that it is judged by.
    checkpoint_every
        Steps of the weights between two checkpoints.
    seed
        Of everything that is drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    iterations: int = Field(default=400, ge=1)
    warmup: float = Field(default=0.25, ge=0, lt=1)
    samples: int = Field(default=4, ge=1)
    pairs: int = Field(default=4, ge=1)
    every: int = Field(default=5, ge=1)
    sigma: float = Field(default=0.05, gt=0, le=0.5)
    sigma_end: float = Field(default=0.01, gt=0, le=0.5)
    eta: float = Field(default=0.02, gt=0, le=1)
    eta_end: float = Field(default=0.005, gt=0, le=1)
    penalty: float = Field(default=20.0, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip_norm: float | None = Field(default=5.0, gt=0)
    candidates: int = Field(default=6, ge=1)
    refine: int = Field(default=10, ge=0)
    recalibration_batches: int = Field(default=16, ge=1)
    evaluation_batches: int = Field(default=16, ge=1)
    checkpoint_every: int = Field(default=25, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _falling(self) -> JointOptions:
        if self.sigma_end > self.sigma or self.eta_end > self.eta:
            raise ValueError("sigma and eta fall: sigma_end and eta_end must not be above them")
        return self

    @classmethod
    def read(cls, given: Mapping[str, str], *, seed: int = 0) -> JointOptions:
        """Options from texts, such as ``{"iterations": "800"}``; ``seed`` unless they say otherwise.

        Raises
        ------
        UsageError
            There is no such option, or its value is none.
        """
        return validated(cls, {"seed": seed, **given}, "the joint search")

    @property
    def warmup_steps(self) -> int:
        """Steps in which the vector stays."""
        return round(self.warmup * self.iterations)
