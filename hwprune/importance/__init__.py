"""Importance: one score per channel of every group, by a criterion from the literature.

A module that defines criteria is imported here, which registers them.
"""

from hwprune.importance.batchnorm import BatchNormScale
from hwprune.importance.description import Description, describe, descriptions
from hwprune.importance.gates import with_gates
from hwprune.importance.magnitude import L1, L2
from hwprune.importance.objective import to_objective
from hwprune.importance.registry import Criterion, available, get, register
from hwprune.importance.scoring import score
from hwprune.importance.taylor import Taylor2019

__all__ = [
    "L1",
    "L2",
    "BatchNormScale",
    "Criterion",
    "Description",
    "Taylor2019",
    "available",
    "describe",
    "descriptions",
    "get",
    "register",
    "score",
    "to_objective",
    "with_gates",
]
