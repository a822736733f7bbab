"""Widths as others choose them: uniform, and Torch-Pruning's global criteria."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bench.plan_accuracy_prices import Prices
from hwprune.dependency.groups import Dependencies

#: Steps in which Torch-Pruning cuts, scoring anew before each.
STEPS = 24
#: A plan that uses this share of its budget is full.
FULL = 0.93
#: Runs at other ratios at most, by how much the ratio grows at first, and when two are the same.
TRIES, MORE, CLOSE = 8, 0.015, 0.01

Widths = dict[str, int]


class OutOfReachError(Exception):
    """A method has no plan for a budget."""


def uniform_widths(prices: Prices, budget_ns: float) -> Widths:
    """The largest common fraction of all groups that keeps the budget, each at the nearest width on offer.

    What is left of the budget then goes to one more step of the groups that were rounded down most, so that
    the uniform plan has nearly the latency of the others.
    """
    domains = prices.domains
    edges = {(a + b) / 2 / w[-1] for w in domains.values() for a, b in itertools.pairwise(w)}
    widths = {g: w[0] for g, w in domains.items()}
    for fraction in sorted(edges | {1.0}, reverse=True):
        at_fraction = {g: _nearest(w, fraction * w[-1]) for g, w in domains.items()}
        if prices.of(at_fraction) <= budget_ns:
            widths = at_fraction
            break
    for group in sorted(domains, key=lambda g: widths[g] / domains[g][-1]):
        wider = next((w for w in domains[group] if w > widths[group]), widths[group])
        if prices.of(widths | {group: wider}) <= budget_ns:
            widths |= {group: wider}
    return widths


def _nearest(widths: tuple[int, ...], wanted: float) -> int:
    return min(widths, key=lambda width: abs(width - wanted + 1e-9))


class TorchPruning:
    """Torch-Pruning with a global criterion, cutting in 24 steps to channel counts of a multiple.

    A first run to a ratio of 0.95 says which ratio takes which time; then it is run in 24 steps to
    the ratio of each budget.

    Parameters
    ----------
    model
        Trained; not changed. Its last layer is called ``head``.
    kind
        ``"magnitude"`` or ``"taylor"``.
    batch
        Labelled images for Taylor, whose gradients are taken anew before every step.
    """

    def __init__(
        self,
        model: nn.Module,
        deps: Dependencies,
        prices: Prices,
        kind: str,
        batch: tuple[torch.Tensor, torch.Tensor],
        multiple: int,
    ) -> None:
        self.model, self.prices, self.kind = model, prices, kind
        self._batch, self._multiple = batch, multiple
        # Our groups' widths are read off one producer each.
        self._producers = {g.name: next(m for m in g.members if m.role == "producer") for g in deps.groups}
        self._path: list[tuple[float, float]] = [(0.0, prices.of(deps.dense_widths))]
        self._run(0.95, self._path)

    def at(self, budget_ns: float) -> nn.Module:
        """The pruned model just below a latency.

        Raises
        ------
        OutOfReachError
            No ratio that was tried leads there.
        """
        ratios, times = zip(*reversed(self._path), strict=True)
        ratio = float(np.interp(budget_ns, np.minimum.accumulate(times[::-1])[::-1], ratios))
        low, high, more = 0.0, 1.0, MORE
        kept: tuple[float, nn.Module] | None = None
        for _ in range(TRIES):
            model = self._run(ratio)
            used = self.prices.of(self.widths(model)) / budget_ns
            if used > 1.0:
                low = ratio
            else:
                high = min(high, ratio)
                if kept is None or used > kept[0]:
                    kept = used, model
            if FULL <= used <= 1.0 or high - low < CLOSE:
                break
            # Latency does not fall evenly with the ratio: first above it, then between.
            ratio = (low + high) / 2 if kept is not None else min(0.97, ratio + more)
            more *= 2
        if kept is None:
            raise OutOfReachError(f"no ratio up to {ratio:.2f} gets below {budget_ns / 1e3:.1f} us")
        return kept[1]

    def widths(self, model: nn.Module) -> Widths:
        """Units left of our groups."""
        parameters = dict(model.named_parameters())
        return {g: parameters[m.param].shape[m.dim] for g, m in self._producers.items()}

    def _run(self, ratio: float, path: list[tuple[float, float]] | None = None) -> nn.Module:
        """A copy pruned in 24 steps to a ratio; ``path`` gets ratio and latency after each."""
        import torch_pruning as tp

        model = copy.deepcopy(self.model).eval()
        images, labels = self._batch
        criteria = {
            "magnitude": tp.importance.GroupMagnitudeImportance,
            "taylor": tp.importance.GroupTaylorImportance,
        }
        pruner = tp.pruner.BasePruner(
            model,
            images[:1],
            importance=criteria[self.kind](),
            global_pruning=True,
            iterative_steps=STEPS,
            pruning_ratio=ratio,
            round_to=self._multiple,
            ignored_layers=[model.get_submodule("head")],
            in_channel_groups={},  # its defaults are shared by all pruners of a process
            out_channel_groups={},
            num_heads={},
        )
        for step in range(1, STEPS + 1):
            if self.kind == "taylor":
                model.zero_grad()
                F.cross_entropy(model(images), labels).backward()
            pruner.step()
            if path is not None:
                path.append((ratio * step / STEPS, self.prices.of(self.widths(model))))
        model.zero_grad(set_to_none=True)
        return model
