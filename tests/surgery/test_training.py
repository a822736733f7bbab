"""A class with a head that runs in training only: it is not cut in a way that breaks training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.surgery import prune_model


class _Auxiliary(nn.Module):
    def __init__(self, read: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)
        self.auxiliary = nn.Conv2d(8 if read else 3, 4, 1)
        self.read = read

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.body(x).relu()
        if self.training:
            return self.head(y), self.auxiliary(y if self.read else x)
        return self.head(y)


def test_the_graph_is_returned_where_the_class_could_not_train() -> None:
    model = _Auxiliary(read=True)
    captured = capture(model, torch.randn(1, 3, 4, 4))
    pruned, reason = prune_model(captured, analyse(captured), {"body": (0, 3, 5)})
    assert reason is not None
    assert "'auxiliary'" in reason
    pruned.train()(torch.randn(2, 3, 4, 4)).sum().backward()


def test_the_class_is_kept_where_its_auxiliary_layers_still_fit() -> None:
    model = _Auxiliary(read=False)
    captured = capture(model, torch.randn(1, 3, 4, 4))
    pruned, reason = prune_model(captured, analyse(captured), {"body": (0, 3, 5)})
    assert reason is None
    assert isinstance(pruned, _Auxiliary)
    assert pruned.head.weight.shape == (4, 3, 1, 1)
