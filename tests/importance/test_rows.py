"""Rows of layers at sampled positions, and the sums over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from hwprune.capture import Captured, capture
from hwprune.dependency import analyse
from hwprune.errors import CriterionError
from hwprune.importance.batches import Batch
from hwprune.importance.consumers import consumers_of
from hwprune.importance.gram import Gram, contribution_gram
from hwprune.importance.rows import Positions, Rows, rows_of, spots_of
from hwprune.importance.values import watch_values
from hwprune.surgery import cut_graph
from tests.surgery.helpers import prepared

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 9, 7)),
    "dilated": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(2, 0), dilation=(2, 1), bias=False), (2, 4, 8, 8)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
    "same": (lambda: nn.Conv2d(4, 6, 4, padding="same"), (2, 4, 6, 6)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
    "one dimension": (lambda: nn.Conv1d(4, 6, 5, stride=3, padding=2), (2, 4, 20)),
    "three dimensions": (lambda: nn.Conv3d(4, 6, 2, stride=(1, 2, 1)), (2, 4, 3, 5, 4)),
    "linear": (lambda: nn.Linear(4, 6), (5, 4)),
    "tokens": (lambda: nn.Linear(4, 6), (2, 7, 4)),
    "windows": (lambda: nn.Linear(4, 6, bias=False), (2, 3, 3, 4)),
}


def _rows(captured: Captured, batches: list[Batch], positions: Positions) -> dict[str, list[Rows]]:
    """Rows of every consumer, by batch."""
    consumers = {consumer.node: consumer for consumer in consumers_of(captured.graph)}
    found: dict[str, list[Rows]] = {node: [] for node in consumers}
    for number, batch in enumerate(batches):

        def look(
            node: fx.Node, args: Sequence[Any], value: Any, number: int = number, size: int = batch.size
        ) -> None:
            if node.name in consumers:
                consumer = consumers[node.name]
                at = positions.draw(node.name, number, value.shape[0], spots_of(consumer, value), size)
                found[node.name].append(rows_of(consumer, node, args[0], value, at))

        watch_values(captured.graph, [batch], look, criterion="test")
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_the_weight_are_the_outputs(name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = nn.Sequential(make()).double()
    x = torch.randn(shape, dtype=torch.float64)
    captured = capture(model, x)
    (consumer,) = consumers_of(captured.graph)
    found = _rows(captured, [Batch((x,), {}, None)], Positions(4, seed=3))
    (rows,) = found[consumer.node]
    weight = model.get_parameter("0.weight").detach().reshape(consumer.groups, -1, rows.x.shape[2])
    outputs = torch.einsum("ngd,god->ngo", rows.x, weight)
    if consumer.bias is not None:
        outputs = outputs + model.get_parameter("0.bias").detach().reshape(consumer.groups, -1)
    assert torch.allclose(rows.y, outputs, atol=1e-12)
    spots = model(x).shape[2:].numel() if consumer.kind == "convolution" else model(x).shape[1:-1].numel()
    assert len(rows) == shape[0] * min(4, spots)


def test_positions_differ_between_layers_batches_and_seeds_and_come_again() -> None:
    positions = Positions(5, seed=1)
    first = positions.draw("a", 0, 8, 100, 8)
    assert torch.equal(first, Positions(5, seed=1).draw("a", 0, 8, 100, 8))
    others = [positions.draw("b", 0, 8, 100, 8), positions.draw("a", 1, 8, 100, 8)]
    others.append(Positions(5, seed=2).draw("a", 0, 8, 100, 8))
    assert not any(torch.equal(first, other) for other in others)
    assert all(len(set(row.tolist())) == 5 for row in first)
    assert torch.equal(positions.draw("a", 0, 2, 3, 2), torch.tensor([[0, 1, 2]] * 2))
    # Sixteen windows of four examples share the positions of these.
    assert positions.draw("a", 0, 64, 49, 4).shape == (64, 1)


def test_all_positions_are_drawn_about_equally_often() -> None:
    at = Positions(10, seed=0).draw("a", 0, 4000, 40, 4000)
    counts = torch.bincount(at.flatten(), minlength=40)
    assert counts.min() > 900 and counts.max() < 1100


def test_a_pruned_network_is_seen_at_the_same_places() -> None:
    captured, deps = prepared("residual")
    keep = {group.name: list(range(group.size)) for group in deps.groups}
    keep["c1.0"] = list(range(0, 10, 2))
    cut = Captured(cut_graph(captured, deps, keep), captured.model, captured.example_inputs)
    data = [Batch((torch.randn(2, 3, 8, 8),), {}, None) for _ in range(2)]
    original, pruned = (_rows(c, data, Positions(7)) for c in (captured, cut))
    untouched = [c.node for c in consumers_of(captured.graph) if c.weight in ("a1.0.weight", "b2.0.weight")]
    assert len(untouched) == 2
    for node in untouched:
        for ours, theirs in zip(original[node], pruned[node], strict=True):
            assert torch.equal(ours.x, theirs.x) and torch.equal(ours.y, theirs.y)
    (reader,) = (c for c in consumers_of(captured.graph) if c.weight == "c2.0.weight")
    kept = [9 * unit + offset for unit in range(0, 10, 2) for offset in range(9)]
    for ours, theirs in zip(original[reader.node], pruned[reader.node], strict=True):
        assert torch.allclose(ours.x[:, :, kept], theirs.x, atol=1e-6)


def test_consumers_of_a_group_are_those_of_its_members() -> None:
    captured, deps = prepared("residual")
    stem = deps.group("stem.0")
    found = [consumer.weight for consumer in consumers_of(captured.graph, stem)]
    assert found == ["a1.0.weight", "b1.0.weight", "c1.0.weight", "shortcut.weight"]


def test_sums_do_not_depend_on_how_rows_are_batched() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(5000, 2, 6).double(), torch.randn(5000, 2, 3).double()
    whole, parts = Gram(), Gram()
    whole.add(Rows(x, y))
    for start in range(0, 5000, 700):
        parts.add(Rows(x[start : start + 700], y[start : start + 700]))
    assert parts.count == whole.count == 5000
    centred = x - x.mean(0), y - y.mean(0)
    direct = (
        torch.einsum("ngd,nge->gde", centred[0], centred[0]),
        torch.einsum("ngd,ngo->gdo", *centred),
        centred[1].square().sum(0),
    )
    for a, b, c in zip(whole.centred(), parts.centred(), direct, strict=True):
        assert torch.allclose(a, b, atol=1e-8) and torch.allclose(a, c, atol=1e-8)


@pytest.mark.parametrize("groups", [1, 2])
def test_contributions_from_sums_are_those_of_the_channels(groups: int) -> None:
    """The Gram form equals Z'Z and Z'y of explicit contributions."""
    torch.manual_seed(0)
    kernel, channels, outputs, n = 4, 3, 5, 50
    weight = torch.randn(groups * outputs, channels, 2, 2, dtype=torch.float64)
    x = torch.randn(n, groups, channels * kernel, dtype=torch.float64)
    y = torch.randn(n, groups, outputs, dtype=torch.float64)
    gram = Gram()
    gram.add(Rows(x, y))
    zz, zy = contribution_gram(gram.xx, gram.xy, weight, kernel)
    split = weight.reshape(groups, outputs, channels, kernel)
    z = torch.einsum("ngck,gock->ngoc", x.reshape(n, groups, channels, kernel), split).reshape(-1, channels)
    assert torch.allclose(zz, z.T @ z, atol=1e-9)
    assert torch.allclose(zy, z.T @ y.reshape(-1), atol=1e-9)


def test_what_is_not_finite_is_named() -> None:
    captured, _ = prepared("plain")
    broken = torch.randn(2, 3, 8, 8)
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(CriterionError, match="conv2d"):
        _rows(captured, [Batch((broken,), {}, None)], Positions(64))


def test_named_inputs_find_their_places() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.a(left) - self.b(right)

    left, right = torch.randn(2, 4), torch.randn(2, 5)
    captured = capture(Two(), (left, right))
    by_name = _rows(captured, [Batch((), {"right": right, "left": left}, None)], Positions())
    by_place = _rows(captured, [Batch((left, right), {}, None)], Positions())
    for node, (rows,) in by_place.items():
        assert torch.equal(rows.x, by_name[node][0].x)
    with pytest.raises(CriterionError, match="takes left, right, and a batch has"):
        _rows(captured, [Batch((), {"right": right}, None)], Positions())


def test_no_rows_have_no_sums() -> None:
    with pytest.raises(CriterionError, match="no rows"):
        Gram().centred()


def test_layers_whose_weight_is_computed_are_no_consumers() -> None:
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            weight = self.conv.weight - x.mean()
            return nn.functional.conv2d(x, weight)

    captured = capture(Standardised(), torch.randn(1, 3, 5, 5))
    assert consumers_of(captured.graph) == ()
    assert analyse(captured) is not None
