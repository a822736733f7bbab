"""Importance: one score per channel of every group, by a criterion from the literature.

A module that defines criteria is imported here, which registers them.
"""

from hwprune.importance.batchnorm import BatchNormScale
from hwprune.importance.description import Description, describe, descriptions
from hwprune.importance.distribution import BatchNormDistribution
from hwprune.importance.gates import with_gates
from hwprune.importance.geometric import FPGM
from hwprune.importance.magnitude import L1, L2
from hwprune.importance.objective import to_objective
from hwprune.importance.references import LAMP, Random
from hwprune.importance.registry import Criterion, available, get, register
from hwprune.importance.scoring import score
from hwprune.importance.sparsity import RegularizedSparsity
from hwprune.importance.taylor import Taylor2019
from hwprune.importance.threshold import Selection, global_threshold

__all__ = [
    "FPGM",
    "L1",
    "L2",
    "LAMP",
    "BatchNormDistribution",
    "BatchNormScale",
    "Criterion",
    "Description",
    "Random",
    "RegularizedSparsity",
    "Selection",
    "Taylor2019",
    "available",
    "describe",
    "descriptions",
    "get",
    "global_threshold",
    "register",
    "score",
    "to_objective",
    "with_gates",
]
