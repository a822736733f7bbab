"""Copies of graph forms equal them, and nobody is warned of what is inside of torch."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from hwprune.capture import capture
from hwprune.capture.copies import quiet_copy
from hwprune.capture.trainable import TrainableGraph
from tests.small import SHAPE, Small


def test_copies_are_equal_apart_and_silent() -> None:
    captured = capture(Small(), torch.zeros(SHAPE))
    x = torch.randn(SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = quiet_copy(captured.graph.graph)
        twins = [copy.deepcopy(captured.graph), quiet_copy(nn.ModuleList([captured.graph]))[0]]
    assert [n.name for n in graph.nodes] == [n.name for n in captured.graph.graph.nodes]
    with torch.no_grad():
        expected = captured.graph(x)
        for twin in twins:
            assert isinstance(twin, TrainableGraph)
            assert type(twin).__name__ == "Small"
            assert torch.equal(twin(x), expected)
            next(twin.parameters()).zero_()
        assert torch.equal(captured.graph(x), expected)


def test_other_warnings_are_heard() -> None:
    class Loud:
        def __deepcopy__(self, memo: object) -> Loud:
            warnings.warn("mine", FutureWarning, stacklevel=1)
            return self

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quiet_copy([Loud()])
    assert [str(w.message) for w in heard] == ["mine"]
