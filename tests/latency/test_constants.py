"""What is computed from parameters alone is a weight of its kernel."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.latency.constants import fold_constants
from hwprune.latency.fusion import fuse
from hwprune.surgery.prune import prune_model
from tests.latency.test_fusion import assert_equal_to_model, chains


class Biased(nn.Module):
    """Attention with a table of position biases, gathered by an index as in Swin."""

    index: torch.Tensor

    def __init__(self, heads: int = 4, positions: int = 6, width: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn(2 * positions - 1, heads))
        steps = torch.arange(positions)
        self.register_buffer("index", (steps[:, None] - steps[None]).flatten() + positions - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, positions, width = x.shape
        qkv = self.qkv(x).reshape(batch, positions, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].reshape(positions, positions, self.heads).permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, positions, width))


def test_gathered_biases_are_one_weight() -> None:
    torch.manual_seed(0)
    model = Biased().eval()
    captured = capture(model, (torch.randn(2, 6, 16),))
    folded = fold_constants(captured.graph)
    kept = {str(n.target) for n in folded.graph.nodes}
    assert "aten.index.Tensor" in {str(n.target) for n in captured.graph.graph.nodes}
    assert "aten.index.Tensor" not in kept
    assert "table" not in kept, "the table itself is read by nothing any more"
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(folded(x), model(x))
    assert captured.graph(x) is not None, "the captured graph is as it was"


def test_sizes_of_a_computed_weight_follow_the_widths() -> None:
    torch.manual_seed(0)
    captured = capture(Biased().eval(), (torch.randn(2, 6, 16),))
    deps = analyse(captured)
    (heads,) = [g.name for g in deps.groups if g.size == 4]
    cut, _ = prune_model(captured, deps, {heads: (0, 2, 3)})
    wanted = fuse(capture(cut, (torch.randn(2, 6, 16),)).graph).families()
    found = fuse(captured.graph).families(deps.extents)
    widths = deps.dense_widths | {heads: 3}
    assert [f.at(widths).inputs for f in found] == [f.at({}).inputs for f in wanted]


def test_a_normalised_weight_is_that_of_a_convolution() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU())
    fused = assert_equal_to_model(model, torch.randn(1, 3, 10, 10))
    assert chains(fused) == ["conv2d+relu"]


def test_without_constants_the_graph_is_the_same() -> None:
    captured = capture(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (torch.randn(1, 3, 10, 10),))
    assert fold_constants(captured.graph) is captured.graph
