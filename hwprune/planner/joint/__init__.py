"""JointPruning: widths, depth and resolution searched together on a weight-sharing network."""

from hwprune.planner.joint.network import Variant
from hwprune.planner.joint.options import JointOptions
from hwprune.planner.joint.solver import JointResult, JointSolver
from hwprune.planner.joint.workbench import joint_solver

__all__ = ["JointOptions", "JointResult", "JointSolver", "Variant", "joint_solver"]
