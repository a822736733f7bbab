"""scikit-learn's handwritten digits (1,797 real 8x8 scans), upscaled to 32x32."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hwprune.errors import MissingExtraError

Batches = DataLoader[tuple[torch.Tensor, ...]]


def load_digits_split(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Training (80 %) and test (20 %) sets, stratified by class.

    Images are ``[1, 32, 32]`` with about unit variance, labels 0 to 9.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingExtraError(
            "the quickstart's digits come from scikit-learn, which is not installed",
            hint='pip install "hwprune[quickstart]"',
        ) from error
    digits: Any = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    images = functional.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    images = (images - 4.88) / 6.0  # mean and standard deviation of the pixels (0..16)
    labels = torch.tensor(digits.target)
    train, test = train_test_split(
        list(range(len(labels))), test_size=0.2, random_state=seed, stratify=digits.target
    )
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def train_batches() -> Batches:
    """The quickstart's training batches, as a factory for ``--data``."""
    return batches(load_digits_split(0)[0], shuffle=True, seed=0)


def test_batches() -> Batches:
    """Its test batches, as a factory for ``--evaluate``."""
    return batches(load_digits_split(0)[1], size=360, shuffle=False, seed=0)


def batches(data: TensorDataset, *, size: int = 64, shuffle: bool, seed: int) -> Batches:
    """A loader whose order is fixed by ``seed``."""
    return DataLoader(data, size, shuffle=shuffle, generator=torch.Generator().manual_seed(seed))
