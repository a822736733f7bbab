"""Repair after surgery: BatchNorm recalibration, fine-tuning and distillation."""

from hwprune.repair.accuracy import evaluate_accuracy
from hwprune.repair.distill import distillation_loss
from hwprune.repair.finetune import finetune
from hwprune.repair.mixing import MixedLoader
from hwprune.repair.options import FinetuneOptions
from hwprune.repair.progress import EpochRecord, FinetuneReport, Progress
from hwprune.repair.recalibrate import recalibrate_batchnorm

__all__ = [
    "EpochRecord",
    "FinetuneOptions",
    "FinetuneReport",
    "MixedLoader",
    "Progress",
    "distillation_loss",
    "evaluate_accuracy",
    "finetune",
    "recalibrate_batchnorm",
]
