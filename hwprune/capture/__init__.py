"""Capture: a trained module becomes one torch.fx graph of functional ATen operators."""

from hwprune.capture.captured import Captured
from hwprune.capture.export import capture
from hwprune.capture.trainable import TrainableGraph

__all__ = ["Captured", "TrainableGraph", "capture"]
