"""Architectures on shared weights compute what the networks that are really cut compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.analysed import analyse_model
from hwprune.dependency.blocks import find_blocks
from hwprune.errors import UsageError
from hwprune.planner.joint.mapping import Architecture
from hwprune.planner.joint.network import SharedNetwork, Variant
from hwprune.solve.problem import Choice
from hwprune.surgery.apply import cut_graph
from hwprune.surgery.blocks import without_blocks
from tests.nets import NETS, Residual, settle


def network(model: nn.Module, *, side: int = 8, blocks: bool = False, seed: int = 0) -> SharedNetwork:
    captured, deps = analyse_model(settle(model).eval(), torch.zeros(2, 3, side, side))
    rng = np.random.default_rng(seed)
    scores = {g.name: rng.exponential(1.0, g.size) for g in deps.groups}
    return SharedNetwork([Variant(captured, deps, find_blocks(captured, deps) if blocks else ())], scores)


def dense(shared: SharedNetwork) -> Architecture:
    return Architecture(0, Choice(shared.variants[0].deps.dense_widths))


def images(count: int = 4, side: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETS)
def test_at_full_size_the_output_is_that_of_the_model_bit_for_bit(name: str) -> None:
    shared, x = network(NETS[name]()), images()
    with torch.no_grad():
        expected = shared.variants[0].captured.model(x)
        assert torch.equal(shared.sub(dense(shared), "eval")(x), expected)
        assert torch.equal(shared.cut(dense(shared))(x), expected)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_a_sub_network_is_the_network_that_is_cut(name: str, seed: int) -> None:
    shared, x = network(NETS[name](), seed=seed), images()
    variant, rng = shared.variants[0], np.random.default_rng(seed)
    widths = {g.name: int(rng.integers(1, g.size + 1)) for g in variant.deps.groups}
    found = Architecture(0, Choice(widths))
    keep = shared.keep(found)
    assert {g: len(units) for g, units in keep.items()} == widths
    for group, units in keep.items():
        rest = np.delete(shared.scores[group], list(units))
        assert not rest.size or shared.scores[group][list(units)].min() >= rest.max()
    expected = cut_graph(variant.captured, variant.deps, keep)
    with torch.no_grad():
        for model in (shared.sub(found, "eval"), shared.cut(found)):
            torch.testing.assert_close(model(x), expected(x), rtol=1e-5, atol=1e-6)
    if name != "plain":  # its dropout is random
        with torch.no_grad():
            torch.testing.assert_close(
                shared.sub(found, "train")(x), expected.train()(x), rtol=1e-4, atol=1e-5
            )


def test_gradients_reach_the_kept_channels_and_no_others() -> None:
    shared = network(Residual())
    found = Architecture(0, Choice({**shared.variants[0].deps.dense_widths, "a1.0": 2}))
    (units,) = [list(u) for g, u in shared.keep(found).items() if g == "a1.0"]
    shared.sub(found, "train")(images()).square().mean().backward()
    gradient = shared.weights["a1.0.weight"].grad
    assert gradient is not None
    touched = gradient.flatten(1).abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == units


@pytest.mark.parametrize("mode", ["train", "probe"])
def test_running_statistics_and_the_users_model_stay(mode: str) -> None:
    shared = network(Residual())
    model = shared.variants[0].captured.model
    before = {n: t.clone() for n, t in model.state_dict().items()}
    half = Architecture(0, Choice({g.name: (g.size + 1) // 2 for g in shared.variants[0].deps.groups}))
    for found in (dense(shared), half):
        shared.sub(found, "train" if mode == "train" else "probe")(images())
    for name, value in shared.weights.items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        for value in shared.weights.values():
            value.zero_()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_probing_normalises_by_the_batch_and_draws_nothing() -> None:
    shared, x = network(NETS["plain"]()), images()
    probe = shared.sub(dense(shared), "probe")
    with torch.no_grad():
        first, second = probe(x), probe(x)
        assert torch.equal(first, second)
        assert not torch.allclose(first, shared.sub(dense(shared), "eval")(x))


def test_without_a_block_its_branch_is_zero() -> None:
    shared, x = network(Residual(), blocks=True), images()
    blocks = {b.name: b for b in shared.variants[0].blocks if b.reason is None}
    name, block = next(iter(blocks.items()))
    widths = {g: 0 if g in block.groups else n for g, n in shared.variants[0].deps.dense_widths.items()}
    found = Architecture(0, Choice(widths, frozenset({name})))
    model = shared.variants[0].captured.model
    assert isinstance(model, Residual)
    with torch.no_grad():
        got = shared.sub(found, "eval")(x)
        norm = model.a2[1]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight.zero_()
        norm.bias.zero_()
        torch.testing.assert_close(got, model(x))
        torch.testing.assert_close(shared.cut(found)(x), model(x))


def test_resolutions_share_the_weights_and_resize_the_images() -> None:
    model = settle(Residual()).eval()
    variants = [Variant(*analyse_model(model, torch.zeros(2, 3, side, side))) for side in (8, 16)]
    scores = {g.name: np.ones(g.size) for g in variants[0].deps.groups}
    shared, x = SharedNetwork(variants, scores), images(side=16)
    widths = variants[0].deps.dense_widths
    with torch.no_grad():
        assert torch.equal(shared.sub(Architecture(1, Choice(widths)), "eval")(x), model(x))
        small = nn.functional.interpolate(x, size=(8, 8), mode="bilinear", antialias=True)
        torch.testing.assert_close(shared.sub(Architecture(0, Choice(widths)), "eval")(x), model(small))


def test_another_network_at_another_size_is_refused() -> None:
    first = Variant(*analyse_model(NETS["residual"]().eval(), torch.zeros(1, 3, 8, 8)))
    other = Variant(*analyse_model(NETS["gate"]().eval(), torch.zeros(1, 3, 16, 16)))
    with pytest.raises(UsageError, match="at input size"):
        SharedNetwork([first, other], {})


class Dropping(nn.Module):
    """A residual branch with a dropout in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Dropout(0.5), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.branch(x)).mean((2, 3)))


def test_nothing_of_a_block_is_left_not_even_its_dropout() -> None:
    shared = network(Dropping(), blocks=True)
    variant = shared.variants[0]
    (block,) = (b for b in variant.blocks if b.reason is None)
    widths = {g: 0 if g in block.groups else size for g, size in variant.deps.dense_widths.items()}
    found = Architecture(0, Choice(widths, frozenset({block.name})))
    for mode in ("train", "eval"):
        left = {str(node.target) for node in shared.sub(found, mode).graph.graph.nodes}
        assert not [name for name in left if "dropout" in name or name.startswith("branch.")]
        with torch.no_grad():
            torch.testing.assert_close(
                shared.sub(found, mode)(images()), without_blocks(variant.captured, [block])(images())
            )
