"""Gradient of what cannot be differentiated, from pairs of perturbed evaluations."""

from __future__ import annotations

import numpy as np


def antithetic_gradient(
    above: np.ndarray, below: np.ndarray, directions: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """Score-function estimate of the gradient of ``E J(v + sigma * e)``, ``e`` standard normal.

    With both members of a pair the even part of ``J``, which carries no information on the gradient
    but most of the variance, cancels.

    Parameters
    ----------
    above, below
        ``J(v + sigma * e_j)`` and ``J(v - sigma * e_j)``, shape ``[pairs]``.
    directions
        ``e_j``, shape ``[pairs, coordinates]``.
    sigma
        Standard deviation of each coordinate, shape ``[coordinates]``, above 0.

    Returns
    -------
    numpy.ndarray
        Shape ``[coordinates]``.

    Notes
    -----
    JointPruning (Liu et al., arXiv 2005.08931) estimates the gradient of the vector of widths, depth
    and resolution this way.
    """
    half = (np.asarray(above, np.float64) - np.asarray(below, np.float64)) / 2.0
    return (half[:, None] * directions / sigma).mean(axis=0)


def normalised_step(v: np.ndarray, gradient: np.ndarray, eta: float) -> np.ndarray:
    """``v`` moved by ``eta`` against a gradient, whatever the gradient's size; bounds are the caller's."""
    return v - eta * gradient / (float(np.linalg.norm(gradient)) + 1e-8)
