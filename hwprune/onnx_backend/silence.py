"""Torch's ONNX exporters without their warnings."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Generator


@contextlib.contextmanager
def silent_exporter() -> Generator[None]:
    """The exporters warn about their own future on every call."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
