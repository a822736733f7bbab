"""Latency problems shaped like well-known networks, with costs like measured ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwprune.solve.domains import aligned_widths, domain_values
from hwprune.solve.problem import Domain, Problem, Term
from hwprune.solve.terms import latency_of


@dataclass
class Builder:
    """Adds layers and makes up costs: a staircase in the channels with noise of a few percent."""

    seed: int
    multiple: int = 16
    steps: int = 10
    domains: dict[str, Domain] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def group(self, name: str, size: int) -> str:
        widths, _ = aligned_widths(size, 1, self.multiple, steps=self.steps)
        scores = self.random.gamma(0.7, self.random.uniform(0.3, 3.0), size)
        self.domains[name] = Domain(name, widths, domain_values(scores, widths))
        return name

    def conv(self, name: str, source: str | int, target: str, pixels: int, taps: int) -> None:
        """A convolution; ``source`` is a group or a fixed channel count, equal to ``target`` if depthwise."""
        groups = (target,) if source == target or isinstance(source, int) else (source, target)
        shape = tuple(len(self.domains[g].widths) for g in groups)
        out = np.array(self.domains[target].widths, float)
        if source == target:
            work = out
        elif isinstance(source, int):
            work = np.ceil(out / 32) * 32 * source
        else:
            into = np.array(self.domains[source].widths, float)
            work = np.outer(np.ceil(into / 16) * 16, np.ceil(out / 32) * 32)
        noise = self.random.normal(1.0, 0.03, shape).clip(0.8, 1.3)
        self.terms.append(Term(name, groups, (2000 + work * pixels * taps / 40.0) * noise))

    def problem(self, share: float) -> Problem:
        dense = Problem.of_latency(tuple(self.domains.values()), tuple(self.terms), 50_000.0, 0.0)
        latency = latency_of(dense, {d.group: d.widths[-1] for d in dense.domains})
        return dense.limited(share * latency)


def resnet50_like(share: float, seed: int = 0, steps: int = 10) -> Problem:
    """Four stages of bottleneck blocks whose outputs share one group per stage."""
    b = Builder(seed, steps=steps)
    before = b.group("stem", 64)
    b.conv("stem", 3, before, 112 * 112, 49)
    for stage, (blocks, width, pixels) in enumerate(
        [(3, 64, 3136), (4, 128, 784), (6, 256, 196), (3, 512, 49)]
    ):
        out = b.group(f"stage{stage}", width * 4)
        b.conv(f"stage{stage}.down", before, out, pixels, 1)
        for block in range(blocks):
            name = f"stage{stage}.{block}"
            one, two = b.group(f"{name}.a", width), b.group(f"{name}.b", width)
            b.conv(f"{name}.conv1", before, one, pixels, 1)
            b.conv(f"{name}.conv2", one, two, pixels, 9)
            b.conv(f"{name}.conv3", two, out, pixels, 1)
            before = out
    b.conv("head", 1000, before, 1, 1)
    return b.problem(share)


def mobilenet_v2_like(share: float, seed: int = 0, steps: int = 10) -> Problem:
    """Inverted residuals: expanded groups with depthwise layers between shared narrow ones."""
    b = Builder(seed, multiple=8, steps=steps)
    before = b.group("stem", 32)
    b.conv("stem", 3, before, 112 * 112, 9)
    b.conv("stem.dw", before, before, 112 * 112, 9)
    settings = [(1, 16, 1, 12544), (6, 24, 2, 3136), (6, 32, 3, 784), (6, 64, 4, 196)]
    for stage, (expand, width, blocks, pixels) in enumerate(
        [*settings, (6, 96, 3, 196), (6, 160, 3, 49), (6, 320, 1, 49)]
    ):
        out = b.group(f"stage{stage}", width)
        for block in range(blocks):
            name, middle = f"stage{stage}.{block}", before
            if expand > 1:
                size = b.domains[before].widths[-1] * expand
                middle = b.group(f"{name}.expand", size)
                b.conv(f"{name}.expand", before, middle, pixels, 1)
                b.conv(f"{name}.dw", middle, middle, pixels, 9)
            b.conv(f"{name}.project", middle, out, pixels, 1)
            before = out
    last = b.group("last", 1280)
    b.conv("last", before, last, 49, 1)
    return b.problem(share)


def vgg16_like(share: float, seed: int = 0, steps: int = 10) -> Problem:
    """A plain chain."""
    b = Builder(seed, steps=steps)
    sizes = [(64, 2, 50176), (128, 2, 12544), (256, 3, 3136), (512, 3, 784), (512, 3, 196)]
    before: str | int = 3
    for stage, (width, layers, pixels) in enumerate(sizes):
        for layer in range(layers):
            name = b.group(f"conv{stage}_{layer}", width)
            b.conv(name, before, name, pixels, 9)
            before = name
    for name in ("fc1", "fc2"):
        group = b.group(name, 4096)
        b.conv(name, before, group, 1, 1)
        before = group
    return b.problem(share)
