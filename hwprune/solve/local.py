"""Improving a choice by small changes."""

from __future__ import annotations

import numpy as np

from hwprune.solve.model import Model

#: Pairs of changes that are priced exactly per round, most promising first.
PAIRS = 400
MAX_ROUNDS = 200


class Improver:
    """Local search: one change or two at a time, as long as the objective grows within the limits.

    A change sets a group to another width, removes a block, or brings one back with its groups at
    one of a few shares of their widths.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.inside: list[list[int]] = [
            [i for i in model.groups if model.nodes[i].gate == b] for b in range(model.blocks)
        ]

    def improve(self, levels: np.ndarray, at_most: np.ndarray) -> np.ndarray:
        """A choice that no change or pair of changes improves; ``levels`` must be within the limits."""
        levels, rows = levels, self.model.price(levels[None, :])[:, 0]
        for _ in range(MAX_ROUNDS):
            found = self._round(levels, rows, at_most)
            if found is None:
                break
            levels, rows = found
        return levels

    def _round(
        self, levels: np.ndarray, rows: np.ndarray, at_most: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        raw, units = self.changes(levels)
        if not len(units):
            return None
        priced = self.model.price(self.model.settle(raw))
        deltas = priced - rows[:, None]
        least = 1e-12 * (1.0 + abs(rows[0]))
        fits = (priced[1:] <= at_most[:, None]).all(axis=0) & (deltas[0] > least)
        single = max(np.flatnonzero(fits), key=lambda i: deltas[0, i], default=None)
        # Changes add up but for what the two have in common; that is found out by pricing.
        gain = deltas[0][:, None] + deltas[0][None, :]
        good = (gain > least) & (units[:, None] < units[None, :])
        for row in range(1, len(rows)):
            room = at_most[row - 1] - rows[row] + 0.02 * np.abs(deltas[row]).max()
            good &= deltas[row][:, None] + deltas[row][None, :] <= room
        first, second = np.nonzero(good)
        best = np.argsort(-gain[first, second], kind="stable")[:PAIRS]
        both = np.array(raw[first[best]])
        other = raw[second[best]]
        both = np.where(other != levels, other, both)
        options = [] if single is None else [raw[single][None, :]]
        options = self.model.settle(np.concatenate([*options, both]))
        if not len(options):
            return None
        prices = self.model.price(options)
        fits = (prices[1:] <= at_most[:, None]).all(axis=0) & (prices[0] > rows[0] + least)
        if not fits.any():
            return None
        winner = int(np.argmax(np.where(fits, prices[0], -np.inf)))
        return options[winner], prices[:, winner]

    def changes(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All single changes (``[changes, nodes]``, not settled), and which node each is about."""
        changed: list[np.ndarray] = []
        units: list[int] = []
        for i in self.model.groups:
            node = self.model.nodes[i]
            if node.gate is not None and not levels[node.gate]:
                continue
            for level in range(node.size - (node.gate is not None)):
                if level != levels[i]:
                    changed.append(levels.copy())
                    changed[-1][i] = level
                    units.append(i)
        for b, inside in enumerate(self.inside):
            if levels[b]:
                changed.append(levels.copy())
                changed[-1][b] = 0
                units.append(b)
                continue
            for share in (1.0, 0.75, 0.5, 0.25, 0.0):
                changed.append(levels.copy())
                changed[-1][b] = 1
                for i in inside:
                    changed[-1][i] = round(share * (self.model.nodes[i].size - 2))
                units.append(b)
        if not changed:
            return np.zeros((0, len(levels)), np.intp), np.zeros(0, np.intp)
        return np.array(changed), np.array(units)
