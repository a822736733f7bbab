"""Repair after surgery: least squares, BatchNorm recalibration, fine-tuning and distillation."""

from hwprune.repair.accuracy import evaluate_accuracy
from hwprune.repair.after_cut import Origin, RepairReport, repair_cut
from hwprune.repair.cut_repair import CutRepair
from hwprune.repair.distill import distillation_loss
from hwprune.repair.finetune import finetune
from hwprune.repair.least_squares import LayerFit
from hwprune.repair.mixing import MixedLoader
from hwprune.repair.options import FinetuneOptions, RepairOptions
from hwprune.repair.progress import EpochRecord, FinetuneReport, Progress
from hwprune.repair.recalibrate import recalibrate_batchnorm

__all__ = [
    "CutRepair",
    "EpochRecord",
    "FinetuneOptions",
    "FinetuneReport",
    "LayerFit",
    "MixedLoader",
    "Origin",
    "Progress",
    "RepairOptions",
    "RepairReport",
    "distillation_loss",
    "evaluate_accuracy",
    "finetune",
    "recalibrate_batchnorm",
    "repair_cut",
]
