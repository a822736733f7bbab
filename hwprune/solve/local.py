"""Improving a choice by small changes."""

from __future__ import annotations

import math
import time

import numpy as np

from hwprune.solve.model import Model

#: Pairs of changes that are priced exactly per round, most promising first.
PAIRS = 400
#: Single changes that are priced exactly per round.
SINGLES = 20
MAX_ROUNDS = 60
ROUNDS_TIMES_LIMITS = 600
#: Limits of which less than this share is left are looked at first.
NEAR = 0.05
#: Options whose limits are all looked at at once.
CHUNK = 8


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

    def improve(self, levels: np.ndarray, at_most: np.ndarray, deadline: float = math.inf) -> np.ndarray:
        """A choice that no change or pair of changes improves; ``levels`` must be within the limits."""
        watched: set[int] = set()
        # With many limits a round takes long, and the linear program does better.
        for _ in range(min(MAX_ROUNDS, ROUNDS_TIMES_LIMITS // max(1, len(at_most)))):
            better = self._round(levels, at_most, watched)
            if better is None or time.perf_counter() > deadline:
                break
            levels = better
        return levels

    def _round(self, levels: np.ndarray, at_most: np.ndarray, broken: set[int]) -> np.ndarray | None:
        """A better choice; ``broken`` are limits that stood in the way before, and are added to."""
        raw, units = self.changes(levels)
        if not len(units):
            return None
        rows = self.model.price(levels[None, :])[:, 0]
        # Limits that are far away are looked at last.
        near = at_most - rows[1:] <= NEAR * np.abs(at_most)
        near[[row - 1 for row in broken]] = True
        near = np.flatnonzero(near) + 1
        watched = np.concatenate([[0], near])
        deltas = self.model.price(self.model.settle(raw), watched) - rows[watched][:, None]
        room = (at_most - rows[1:])[near - 1]
        least = 1e-12 * (1.0 + abs(rows[0]))
        single = np.flatnonzero((deltas[0] > least) & (deltas[1:] <= room[:, None]).all(axis=0))
        single = single[np.argsort(-deltas[0, single], kind="stable")][:SINGLES]
        # Changes add up but for what the two have in common; that is found out by pricing.
        ups, downs = np.flatnonzero(deltas[0] > least), np.flatnonzero(deltas[0] <= least)
        gain = deltas[0, ups][:, None] + deltas[0, downs][None, :]
        good = (gain > least) & (units[ups][:, None] != units[downs][None, :])
        for delta, left in zip(deltas[1:], room, strict=True):
            good &= delta[ups][:, None] + delta[downs][None, :] <= left + 0.02 * np.abs(delta).max()
        first, second = np.nonzero(good)
        best = np.argsort(-gain[first, second], kind="stable")[:PAIRS]
        first, second = ups[first], downs[second]
        other = raw[second[best]]
        both = np.where(other != levels, other, raw[first[best]])
        options = self.model.settle(np.concatenate([raw[single], both]))
        if not len(options):
            return None
        priced = self.model.price(options, watched)
        fits = (priced[1:] <= at_most[near - 1][:, None]).all(axis=0) & (priced[0] > rows[0] + least)
        order = np.flatnonzero(fits)
        return self._first(options[order[np.argsort(-priced[0, order], kind="stable")]], at_most, broken)

    def _first(self, options: np.ndarray, at_most: np.ndarray, broken: set[int]) -> np.ndarray | None:
        """The first option that keeps all limits."""
        while len(options):
            over = self.model.price(options[:CHUNK])[1:] > at_most[:, None]
            keeps = ~over.any(axis=0)
            if keeps.any():
                return options[int(np.argmax(keeps))]
            found = np.flatnonzero(over.any(axis=1)) + 1
            broken.update(found.tolist())
            options = options[CHUNK:]
            fits = self.model.price(options, found) <= at_most[found - 1][:, None]
            options = options[fits.all(axis=0)]
        return None

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
