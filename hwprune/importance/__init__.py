"""Importance: one score per channel of every group, by a criterion from the literature.

A module that defines criteria is imported here, which registers them.
"""

from hwprune.importance.batchnorm import BatchNormScale
from hwprune.importance.chip import Chip
from hwprune.importance.description import Description, describe, descriptions
from hwprune.importance.distribution import BatchNormDistribution
from hwprune.importance.gates import with_gates
from hwprune.importance.geometric import FPGM
from hwprune.importance.gradient_matrix import GradientMatrix
from hwprune.importance.lasso import Lasso
from hwprune.importance.magnitude import L1, L2
from hwprune.importance.nisp import Nisp
from hwprune.importance.objective import to_objective
from hwprune.importance.oracle import true_loss_change
from hwprune.importance.redundancy import gradient_redundancy
from hwprune.importance.references import LAMP, Random
from hwprune.importance.registry import Criterion, available, get, register
from hwprune.importance.relief import Relief
from hwprune.importance.scoring import score
from hwprune.importance.snip import Snip
from hwprune.importance.sosp import SospH, SospI
from hwprune.importance.sparsity import RegularizedSparsity
from hwprune.importance.taylor import Taylor2019
from hwprune.importance.taylor2017 import Taylor2017
from hwprune.importance.thinet import ThiNet
from hwprune.importance.threshold import Selection, global_threshold, keep_exactly
from hwprune.importance.wanda import Wanda

__all__ = [
    "BatchNormDistribution",
    "BatchNormScale",
    "Chip",
    "Criterion",
    "Description",
    "Lasso",
    "Nisp",
    "Relief",
    "FPGM",
    "GradientMatrix",
    "L1",
    "L2",
    "LAMP",
    "Random",
    "RegularizedSparsity",
    "Selection",
    "Snip",
    "SospH",
    "SospI",
    "Taylor2017",
    "Taylor2019",
    "ThiNet",
    "Wanda",
    "available",
    "describe",
    "descriptions",
    "get",
    "global_threshold",
    "gradient_redundancy",
    "keep_exactly",
    "register",
    "score",
    "to_objective",
    "true_loss_change",
    "with_gates",
]
