"""LASSO and least squares in turns: which units stay where the weights may follow (one exact width)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from hwprune.errors import CriterionError
from hwprune.importance.active import with_ridge

#: Of the mean of the diagonal: least squares on inputs that depend on each other have an answer.
_RIDGE = 1e-10
#: Chooses columns by the products of a regression, ``(Z'Z, Z'y) -> numbers of columns``.
Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ReadSums:
    """What a layer reads of one group: sums from which every refit of its weights follows.

    Attributes
    ----------
    xx
        ``[groups, D, D]``, float64: products of the columns that the layer reads of the group (inputs times
        positions of the filter, per convolution group), about their means where there is an intercept.
    weight
        ``[groups, O, D]``, float64: what the layer does with them now. The targets are what comes of that.
    units
        ``[D]``: the unit of every column.
    energy
        What squares are divided by, so that the layers that read a group have the same say.
    """

    xx: np.ndarray
    weight: np.ndarray
    units: np.ndarray
    energy: float = 1.0

    def products(self, weight: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """``Z'Z [size, size]`` and ``Z'y [size]`` of the units' contributions with other weights.

        ``z_u`` is what unit ``u`` adds to the outputs with ``weight``, ``y`` what all of them add with
        the original one.
        """
        both = np.zeros(self.xx.shape[1:])
        for xx, own in zip(self.xx, weight, strict=True):
            both += xx * (own.T @ own)
        columns = np.arange(len(self.units))
        gather = csr_array((np.ones(len(columns)), (self.units, columns)), (size, len(columns)))
        zz = gather @ (gather @ both).T
        crossed = (self.xx @ self.weight.transpose(0, 2, 1)).transpose(0, 2, 1)
        zy = np.bincount(self.units, weights=(crossed * weight).sum((0, 1)), minlength=size)
        return zz / self.energy, zy / self.energy

    def refitted(self, kept: np.ndarray) -> tuple[np.ndarray, float]:
        """Least squares on the columns of some units: weights with zeros elsewhere, and what is left.

        Parameters
        ----------
        kept
            Booleans per unit.

        Returns
        -------
        tuple
            ``[groups, O, D]``, and the squared error over :attr:`energy`.
        """
        found = np.zeros_like(self.weight)
        columns = np.flatnonzero(kept[self.units])
        left = 0.0
        for own, xx, weight in zip(found, self.xx, self.weight, strict=True):
            if len(columns):
                inner = with_ridge(xx[np.ix_(columns, columns)], _RIDGE)
                own[:, columns] = _solved(inner, xx[columns] @ weight.T).T
            missing = weight - own
            left += float((missing * (missing @ xx)).sum())
        return found, max(left, 0.0) / self.energy

    def rescaled(self, weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Slices of the units that stay at the norms that they had; the others as they were."""
        count = len(kept)
        old, new = (
            np.bincount(self.units, weights=np.square(w).sum((0, 1)), minlength=count)
            for w in (self.weight, weight)
        )
        usable = kept & (new > 0.0)
        factor = np.sqrt(old / np.where(usable, new, 1.0))[self.units]
        return np.where(usable[self.units], weight * factor, self.weight)


@dataclass(frozen=True)
class Alternation:
    """The rounds of an alternation.

    Attributes
    ----------
    support
        The best round's units, rising.
    error
        Squared error of the outputs after least squares on them, over the layers' energies.
    rounds
        Set and error of every round; the first is that of a single pass.
    settled
        Whether the set stood still at the end.
    """

    support: tuple[int, ...]
    error: float
    rounds: tuple[tuple[tuple[int, ...], float], ...] = field(default=())
    settled: bool = False


def alternate(
    layers: Sequence[ReadSums],
    size: int,
    choose: Choose,
    *,
    others: np.ndarray | None = None,
    rounds: int = 10,
) -> Alternation:
    """Choose units, refit the weights on them, and choose again with these weights.

    After every choice the weights are fitted to the original outputs on the chosen units, each slice is
    scaled back to the norm that it had, and the next choice is among contributions with these weights. Units
    that are not chosen keep their slices and may come back. It ends when the set has stood still twice,
    or after ``rounds`` choices.

    Parameters
    ----------
    layers
        The layers that read the group.
    size
        Number of units.
    choose
        Chooses by the products of a regression, see :func:`hwprune.importance.lasso_path.exact_width`.
    others
        ``[size, size]``: products of contributions to layers whose weights cannot be refitted; there,
        units get a factor each, which scaling back undoes.
    rounds
        At least 1; the first round is the single pass.

    Returns
    -------
    Alternation
        Its set is the one of least error: the rounds need not get better, and one pass is among them.
        The authors take the last.

    Raises
    ------
    CriterionError
        There are no rounds, or nothing to choose by.

    References
    ----------
    He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, eq. 2 and 3, and
    the alternation of the released code; that the set itself must stand still (not its size, which is
    given here) and that the best round counts is ours.
    """
    if rounds < 1 or (not layers and others is None):
        raise CriterionError(
            f"{rounds} rounds of LASSO and least squares over {len(layers)} layers",
            hint="give one round or more, and a layer that reads the group",
        )
    weights = [layer.weight for layer in layers]
    seen: list[tuple[tuple[int, ...], float]] = []
    still = 0
    for _ in range(rounds):
        a = np.zeros((size, size)) if others is None else others.copy()
        b = a.sum(1)
        for layer, weight in zip(layers, weights, strict=True):
            zz, zy = layer.products(weight, size)
            a += zz
            b += zy
        support = np.sort(choose(a, b))
        kept = np.isin(np.arange(size), support)
        fits = [layer.refitted(kept) for layer in layers]
        error = sum(left for _, left in fits) + (0.0 if others is None else _scaled_error(others, support))
        chosen = tuple(support.tolist())
        still = still + 1 if seen and seen[-1][0] == chosen else 0
        seen.append((chosen, error))
        if still == 2:
            break
        weights = [layer.rescaled(fit, kept) for layer, (fit, _) in zip(layers, fits, strict=True)]
    best = min(seen, key=lambda each: each[1])
    return Alternation(*best, tuple(seen), still == 2)


def _scaled_error(products: np.ndarray, support: np.ndarray) -> float:
    """What is left of the sum of all contributions after a factor on each of some."""
    whole = float(products.sum())
    if not len(support):
        return whole
    target = products.sum(1)[support]
    factors = _solved(with_ridge(products[np.ix_(support, support)], _RIDGE), target)
    return max(whole - float(factors @ target), 0.0)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of a system with a ridge; the one of least norm where even that is singular."""
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(matrix, right, rcond=None)[0]
