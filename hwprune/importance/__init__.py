"""Importance: one score per channel of every group, by a criterion from the literature.

A module that defines criteria is imported here, which registers them.
"""

from hwprune.importance.batchnorm import BatchNormScale
from hwprune.importance.chip import Chip
from hwprune.importance.description import Description, describe, descriptions
from hwprune.importance.gates import with_gates
from hwprune.importance.lasso import Lasso
from hwprune.importance.magnitude import L1, L2
from hwprune.importance.nisp import Nisp
from hwprune.importance.objective import to_objective
from hwprune.importance.registry import Criterion, available, get, register
from hwprune.importance.relief import Relief
from hwprune.importance.scoring import score
from hwprune.importance.taylor import Taylor2019
from hwprune.importance.thinet import ThiNet
from hwprune.importance.wanda import Wanda

__all__ = [
    "L1",
    "L2",
    "BatchNormScale",
    "Chip",
    "Criterion",
    "Description",
    "Lasso",
    "Nisp",
    "Relief",
    "Taylor2019",
    "ThiNet",
    "Wanda",
    "available",
    "describe",
    "descriptions",
    "get",
    "register",
    "score",
    "to_objective",
    "with_gates",
]
