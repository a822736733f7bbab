"""Greedy choices of channels by the products of what they contribute."""

from __future__ import annotations

import numpy as np

from hwprune.importance.active import ActiveInverse, with_ridge

#: Ridge of orthogonal matching pursuit, of the mean of the diagonal.
_RIDGE = 1e-10


def removal_order(products: np.ndarray) -> np.ndarray:
    """In which order channels go when each time the one goes that leaves the least behind.

    Minimises ``|sum of what the removed contribute|^2`` greedily (Luo et al., ThiNet, ICCV 2017).

    Parameters
    ----------
    products
        ``K[i, j] = x_i . x_j`` of the contributions, ``[C, C]``.

    Returns
    -------
    np.ndarray
        ``[C]``: the first to go first. Ties go by the number of the channel.
    """
    count = len(products)
    energy = np.diag(products).copy()
    shared = np.zeros(count)  # of every channel with the sum of the removed
    there = np.ones(count, dtype=bool)
    order = np.empty(count, dtype=np.int64)
    for step in range(count):
        cost = np.where(there, energy + 2.0 * shared, np.inf)
        order[step] = chosen = int(np.argmin(cost))
        there[chosen] = False
        shared += products[chosen]
    return order


def pursuit_order(products: np.ndarray) -> np.ndarray:
    """In which order orthogonal matching pursuit takes channels for the sum of all contributions.

    Each time the channel enters that alone explains most of the residual; the coefficients of all
    chosen ones are then fitted again (Luo et al., ThiNet, TPAMI 2019).

    Parameters
    ----------
    products
        ``K[i, j] = x_i . x_j`` of the contributions, ``[C, C]``.

    Returns
    -------
    np.ndarray
        ``[C]``: the first to be taken first. When nothing is left to explain, the rest follows by
        falling energy.
    """
    count = len(products)
    energy = np.diag(products)
    target = products.sum(1)
    floor = 1e-12 * max(float(energy.max(initial=0.0)), np.finfo(float).tiny)
    active = ActiveInverse(with_ridge(products, _RIDGE))
    there = energy > floor
    residual, spread = target.copy(), np.zeros(count)
    left = everything = max(float(target.sum()), 0.0)
    while bool(there.any()) and left > 1e-12 * everything:
        gain = np.where(there, residual**2 / np.where(energy > floor, energy, 1.0), -1.0)
        chosen = int(np.argmax(gain))
        there[chosen] = False
        active.add(chosen)
        factors = active.inverse @ target[active.members]
        spread[active.members] = factors
        residual = target - products @ spread
        left = everything - float(factors @ target[active.members])
    rest = [c for c in np.argsort(-energy, kind="stable") if c not in set(active.members)]
    return np.array([*active.members, *rest], dtype=np.int64)


def as_scores(order: np.ndarray, *, first_goes: bool) -> np.ndarray:
    """Scores ``1 .. C``: by the order in which channels go, or in which they are taken."""
    count = len(order)
    scores = np.empty(count)
    scores[order] = np.arange(1, count + 1) if first_goes else np.arange(count, 0, -1)
    return scores
