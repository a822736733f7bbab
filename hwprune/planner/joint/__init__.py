"""JointPruning: widths, depth and resolution searched together on a weight-sharing network."""

from hwprune.planner.joint.network import Variant
from hwprune.planner.joint.options import JointOptions
from hwprune.planner.joint.solver import JointResult, JointSolver

__all__ = ["JointOptions", "JointResult", "JointSolver", "Variant"]
