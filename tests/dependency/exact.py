"""Random cuts of small networks against the masked original."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from hwprune.capture import Captured, capture
from hwprune.dependency import Dependencies, analyse
from hwprune.surgery import cut_graph, prune_model, verify

Keep = dict[str, list[int]]


def random_keep(deps: Dependencies, seed: int) -> Keep:
    """At least one unit of every group, and not all of them."""
    choose = random.Random(seed)
    return {g.name: sorted(choose.sample(range(g.size), choose.randint(1, g.size - 1))) for g in deps.groups}


def examine(
    model: nn.Module, inputs: Tensor | tuple[Tensor, ...], expected: dict[str, int], cuts: int = 3
) -> tuple[Captured, Dependencies]:
    """The groups are as expected and every random cut, alone and together, is exact.

    In float64, so that an error cannot hide behind rounding. One training step runs on each cut.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    model = settled(model)
    captured = capture(model, inputs)
    deps = analyse(captured)
    sizes = {g.name: g.size for g in deps.groups}
    assert sizes == expected, (sizes, deps.ledger)
    keeps = [random_keep(deps, seed) for seed in range(cuts)]
    keeps += [{name: kept} for name, kept in random_keep(deps, 99).items()]
    for keep in keeps:
        graph = cut_graph(captured, deps, keep)
        assert verify(captured, deps, keep, graph) < 1e-9
        trained_step(graph, inputs)
    if keeps:
        pruned, _ = prune_model(captured, deps, keeps[0], tolerance=1e-9)
        trained_step(pruned, inputs)
    return captured, deps


def settled(model: nn.Module) -> nn.Module:
    """Float64 and eval mode, with no parameter or statistic at a neutral value."""
    generator = torch.Generator().manual_seed(5)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and value.dim() == 1:
            noise = torch.rand(value.shape, generator=generator)
            value.data = noise + (0.5 if name.endswith(("weight", "var")) else -0.5)
    return model.double().eval()


def trained_step(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Every parameter gets a gradient of its own shape."""
    model.train()
    output = model(*inputs)
    outputs = output if isinstance(output, tuple) else (output,)
    sum(y.square().mean() for y in outputs).backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert any(p.grad is not None for p in parameters)
    assert all(p.grad.shape == p.shape for p in parameters if p.grad is not None)
    torch.optim.SGD(parameters, lr=0.01).step()
    model.eval()
