"""The cut as a torch.fx pass."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.fx.passes.infra.pass_manager import PassManager

from hwprune import PrunePass
from hwprune.api import analyse_model
from hwprune.errors import HwpruneError
from hwprune.surgery import prune_model
from tests.nets import settle
from tests.small import SHAPE, Small

torch.set_num_threads(1)
IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
KEEP = {"stem.0": tuple(range(0, 32, 2)), "a.0": (1, 2, 3, 30)}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return settle(Small(), 1).eval()


def exported(model: nn.Module) -> fx.GraphModule:
    module = torch.export.export(model, (IMAGE,)).module()
    assert isinstance(module, fx.GraphModule)
    return module


@pytest.mark.parametrize("trace", [fx.symbolic_trace, exported])
def test_in_a_pass_manager(trace: Callable[[nn.Module], fx.GraphModule], model: nn.Module):
    captured, deps = analyse_model(model, IMAGE)
    expected, _ = prune_model(captured, deps, KEEP)
    graph = trace(copy.deepcopy(model))
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    result = PassManager([PrunePass(KEEP, (IMAGE,))])(graph)
    assert result is not None
    assert result.modified
    found = result.graph_module
    assert isinstance(found, fx.GraphModule)
    assert torch.allclose(found(IMAGE), expected.eval()(IMAGE), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in expected.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())


@pytest.mark.parametrize("keep", [{}, {"a.0": tuple(range(32))}])
def test_keeping_everything_modifies_nothing(keep: dict[str, tuple[int, ...]], model: nn.Module):
    result = PrunePass(keep, (IMAGE,))(fx.symbolic_trace(copy.deepcopy(model)))
    assert not result.modified
    assert torch.allclose(result.graph_module(IMAGE), model(IMAGE), atol=1e-6)


@pytest.mark.parametrize("keep", [{"nosuch": (0,)}, {"a.0": (0, 99)}, {"a.0": ()}])
def test_what_cannot_be_kept_is_refused_by_name(keep: dict[str, tuple[int, ...]], model: nn.Module):
    with pytest.raises(HwpruneError, match=next(iter(keep))):
        PrunePass(keep, (IMAGE,))(fx.symbolic_trace(copy.deepcopy(model)))
