"""Captured with one input, the graph runs at any batch size, and at no other size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwprune.capture import capture
from hwprune.errors import UsageError


class _Body(nn.Module):
    """A body with some parameters to use."""

    def __init__(self, body: Callable[[_Body, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.position = nn.Parameter(torch.randn(1, 65, 12))
        self.linear = nn.Linear(12, 36)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.conv = nn.Conv2d(3, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.conv(x))


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _class_token(net: _Body, x: Tensor) -> Tensor:
    return torch.cat([net.token.expand(x.shape[0], -1, -1), _tokens(x)], dim=1) + net.position


def _multihead(net: _Body, x: Tensor) -> Tensor:
    y = _tokens(x)
    return net.attention(y, y, y, need_weights=False)[0]


def _fused_qkv(net: _Body, x: Tensor) -> Tensor:
    y = _tokens(x)
    batch, length, width = y.shape
    q, k, v = net.linear(y).reshape(batch, length, 3, 3, width // 3).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)


def _windows(net: _Body, x: Tensor) -> Tensor:
    batch, width, height, _ = x.shape
    y = x.permute(0, 2, 3, 1).view(batch, height // 4, 4, height // 4, 4, width)
    y = net.linear(y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, width)).softmax(1)
    y = y.view(batch, height // 4, height // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5)
    return y.reshape(batch, height, height, -1)


def _merged_behind_three(net: _Body, x: Tensor) -> Tensor:
    batch = x.shape[0]
    y = net.linear(_tokens(x)).view(batch, -1, 3, 12).permute(2, 0, 1, 3).reshape(3 * batch, -1, 12)
    return y.softmax(1).view(3, batch, -1, 12).sum(0)


@pytest.mark.parametrize("body", [_class_token, _multihead, _fused_qkv, _windows, _merged_behind_three])
@pytest.mark.parametrize("captured_with", [1, 2])
def test_batch_sizes_are_opened(body: Callable[[_Body, Tensor], Tensor], captured_with: int) -> None:
    torch.manual_seed(0)
    model = _Body(body).eval()
    graph = capture(model, torch.randn(captured_with, 3, 8, 8)).graph
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(graph(x), model(x))


def test_a_batch_size_in_the_code_is_kept() -> None:
    model = _Body(lambda net, x: x.reshape(1, 12, 64)).eval()
    x = torch.randn(1, 3, 8, 8)
    graph = capture(model, x).graph
    torch.testing.assert_close(graph(x), model(x))
    with pytest.raises(RuntimeError, match="shape"):
        graph(torch.randn(2, 3, 8, 8))


def test_a_constant_of_the_batch_size_is_kept() -> None:
    model = _Body(lambda net, x: torch.arange(x.shape[0] * 1.0).view(-1, 1, 1, 1) + x).eval()
    x = torch.randn(2, 3, 8, 8)
    captured = capture(model, x)
    torch.testing.assert_close(captured.graph(x), model(x))


def test_other_sizes_are_refused() -> None:
    graph = capture(_Body(_windows), torch.randn(1, 3, 8, 8)).graph
    with pytest.raises(UsageError, match=r"input 0 has shape \(1, 3, 16, 16\).*\(batch, 3, 8, 8\)"):
        graph(torch.randn(1, 3, 16, 16))
