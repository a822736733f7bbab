"""Latency problems shaped like well-known networks, with costs like measured ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwprune.solve.domains import aligned_widths, domain_values
from hwprune.solve.problem import Block, Concat, Domain, Limit, Problem, Term


def latency_problem(
    domains: tuple[Domain, ...], terms: tuple[Term, ...], fixed_ns: float, budget_ns: float
) -> Problem:
    """Greatest importance under one latency budget, without blocks and concatenations."""
    return Problem(domains, (Limit("latency", terms, fixed_ns, budget_ns),))


@dataclass
class Builder:
    """Adds layers and makes up costs: a staircase in the channels with noise of a few percent."""

    seed: int
    multiple: int = 16
    steps: int = 10
    domains: dict[str, Domain] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    concats: list[Concat] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def group(self, name: str, size: int, *, multiple: int = 0, block: str | None = None) -> str:
        widths, _ = aligned_widths(size, 1, multiple or self.multiple, steps=self.steps)
        scores = self.random.gamma(0.7, self.random.uniform(0.3, 3.0), size)
        self.domains[name] = Domain(name, widths, domain_values(scores, widths), block)
        return name

    def block(self, name: str, *, on: bool) -> str | None:
        """A residual branch that may be removed, if ``on``."""
        if not on:
            return None
        self.blocks.append(Block(name))
        return name

    def concat(self, name: str, groups: tuple[str, ...]) -> str:
        self.concats.append(Concat(name, groups, (1,) * len(groups)))
        return name

    def channels(self, axis: str) -> np.ndarray:
        """Channel counts that an axis may have."""
        if axis in self.domains:
            return np.array(self.domains[axis].widths, float)
        concat = next(c for c in self.concats if c.name == axis)
        groups = tuple(self.domains[g] for g in dict.fromkeys(concat.groups))
        return np.array(Problem(groups, (), (), (concat,)).all_levels[axis], float)

    def conv(
        self, name: str, source: str | int, target: str, pixels: int, taps: int, block: str | None = None
    ) -> None:
        """A convolution; ``source`` is a group or a fixed channel count, equal to ``target`` if depthwise."""
        axes = (target,) if source == target or isinstance(source, int) else (source, target)
        out = self.channels(target)
        if source == target:
            work = out
        elif isinstance(source, int):
            work = np.ceil(out / 32) * 32 * source
        else:
            work = np.outer(np.ceil(self.channels(source) / 16) * 16, np.ceil(out / 32) * 32)
        noise = self.random.normal(1.0, 0.03, work.shape).clip(0.8, 1.3)
        self.terms.append(Term(name, axes, (2000 + work * pixels * taps / 40.0) * noise, block))

    def problem(self, share: float) -> Problem:
        latency = Limit("latency", tuple(self.terms), 50_000.0)
        problem = Problem(tuple(self.domains.values()), (latency,), tuple(self.blocks), tuple(self.concats))
        return problem.limited(share * problem.usage(latency, problem.dense))


def resnet50_like(share: float, seed: int = 0, steps: int = 10, *, depth: bool = False) -> Problem:
    """Four stages of bottleneck blocks whose outputs share one group per stage."""
    return _bottlenecks((3, 4, 6, 3), share, seed, steps, depth=depth)


def resnet101_like(share: float, seed: int = 0, steps: int = 10, *, depth: bool = True) -> Problem:
    """More of the same, of which blocks may be removed."""
    return _bottlenecks((3, 4, 23, 3), share, seed, steps, depth=depth)


def _bottlenecks(
    counts: tuple[int, int, int, int], share: float, seed: int, steps: int, *, depth: bool
) -> Problem:
    b = Builder(seed, steps=steps)
    before = b.group("stem", 64)
    b.conv("stem", 3, before, 112 * 112, 49)
    for stage, (blocks, width, pixels) in enumerate(
        zip(counts, (64, 128, 256, 512), (3136, 784, 196, 49), strict=True)
    ):
        out = b.group(f"stage{stage}", width * 4)
        b.conv(f"stage{stage}.down", before, out, pixels, 1)
        for index in range(blocks):
            name = f"stage{stage}.{index}"
            block = b.block(name, on=depth and index > 0)
            one, two = b.group(f"{name}.a", width, block=block), b.group(f"{name}.b", width, block=block)
            b.conv(f"{name}.conv1", before, one, pixels, 1, block)
            b.conv(f"{name}.conv2", one, two, pixels, 9, block)
            b.conv(f"{name}.conv3", two, out, pixels, 1, block)
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


def densenet121_like(share: float, seed: int = 0, steps: int = 10) -> Problem:
    """Every layer reads all groups before it, side by side."""
    b = Builder(seed, multiple=8, steps=steps)
    before = b.group("stem", 64)
    b.conv("stem", 3, before, 112 * 112, 49)
    total = 64
    for stage, (layers, pixels) in enumerate([(6, 3136), (12, 784), (24, 196), (16, 49)]):
        parts, source = [before], before
        for layer in range(layers):
            name = f"stage{stage}.{layer}"
            middle = b.group(f"{name}.a", 128, multiple=16)
            b.conv(f"{name}.conv1", source, middle, pixels, 1)
            parts.append(b.group(f"{name}.b", 32))
            b.conv(f"{name}.conv2", middle, parts[-1], pixels, 9)
            source = b.concat(f"{name}.cat", tuple(parts))
            total += 32
        if stage < 3:
            total //= 2
            before = b.group(f"stage{stage}.down", total)
            b.conv(f"stage{stage}.down", source, before, pixels, 1)
    return b.problem(share)


def efficientnet_b0_like(share: float, seed: int = 0, steps: int = 10) -> Problem:
    """Inverted residuals with squeeze-and-excitation."""
    b = Builder(seed, multiple=8, steps=steps)
    before = b.group("stem", 32)
    b.conv("stem", 3, before, 112 * 112, 9)
    settings = [(1, 16, 1, 12544, 9), (6, 24, 2, 3136, 9), (6, 40, 2, 784, 25), (6, 80, 3, 196, 9)]
    for stage, (expand, width, blocks, pixels, taps) in enumerate(
        [*settings, (6, 112, 3, 196, 25), (6, 192, 4, 49, 25), (6, 320, 1, 49, 9)]
    ):
        out = b.group(f"stage{stage}", width)
        for block in range(blocks):
            name, middle = f"stage{stage}.{block}", before
            into = b.domains[before].widths[-1]
            if expand > 1:
                middle = b.group(f"{name}.expand", into * expand)
                b.conv(f"{name}.expand", before, middle, pixels, 1)
            b.conv(f"{name}.dw", middle, middle, pixels, taps)
            squeeze = b.group(f"{name}.squeeze", max(8, into // 4), multiple=1)
            b.conv(f"{name}.reduce", middle, squeeze, 1, 1)
            b.conv(f"{name}.restore", squeeze, middle, 1, 1)
            b.conv(f"{name}.project", middle, out, pixels, 1)
            before = out
    last = b.group("last", 1280)
    b.conv("last", before, last, 49, 1)
    return b.problem(share)


def vit_b_16_like(share: float, seed: int = 0, steps: int = 10) -> Problem:
    """One embedding for the whole network; heads and hidden layers of removable branches."""
    b = Builder(seed, steps=steps)
    embedding = b.group("embedding", 768)
    b.conv("patches", 768, embedding, 196, 1)
    for layer in range(12):
        _attention(b, f"layer{layer}", embedding, 12, 197)
    return b.problem(share)


def swin_t_like(share: float, seed: int = 0, steps: int = 10) -> Problem:
    """Four stages of attention; between them a layer reads the same group four times."""
    b = Builder(seed, steps=steps)
    before = b.group("stage0", 96)
    b.conv("patches", 48, before, 3136, 1)
    for stage, (layers, heads, pixels) in enumerate([(2, 3, 3136), (2, 6, 784), (6, 12, 196), (2, 24, 49)]):
        if stage:
            four = b.concat(f"merge{stage}.cat", (before,) * 4)
            before = b.group(f"stage{stage}", 96 << stage)
            b.conv(f"merge{stage}", four, before, pixels, 1)
        for layer in range(layers):
            _attention(b, f"stage{stage}.{layer}", before, heads, pixels)
    return b.problem(share)


def _attention(b: Builder, name: str, embedding: str, heads: int, pixels: int) -> None:
    width = b.domains[embedding].widths[-1]
    block = b.block(f"{name}.attention", on=True)
    b.conv(f"{name}.norm1", embedding, embedding, pixels, 1, block)
    units = b.group(f"{name}.heads", heads, multiple=1, block=block)
    for part in ("query", "key", "value", "join"):
        b.conv(f"{name}.{part}", embedding, units, pixels * width // heads, 1, block)
    b.conv(f"{name}.attend", units, units, pixels * width // heads, min(pixels, 197), block)
    block = b.block(f"{name}.mlp", on=True)
    b.conv(f"{name}.norm2", embedding, embedding, pixels, 1, block)
    hidden = b.group(f"{name}.hidden", 4 * width, block=block)
    b.conv(f"{name}.fc1", embedding, hidden, pixels, 1, block)
    b.conv(f"{name}.fc2", hidden, embedding, pixels, 1, block)
