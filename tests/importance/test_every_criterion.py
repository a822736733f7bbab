"""What every registered criterion owes to whoever calls it, on convolutional and transformer groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hwprune.capture.captured import Captured
from hwprune.dependency import Dependencies
from hwprune.errors import CriterionError
from hwprune.importance import available, describe, score
from tests.importance.nets import analysed, transformer
from tests.nets import NETS, settle

Prepared = tuple[Captured, Dependencies, list[tuple[Tensor, Tensor]]]


class Transposed(nn.Module):
    """A transposed convolution between two others, and one layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 2, 2), nn.ConvTranspose2d(6, 5, 2, 2)
        self.norm, self.twice, self.head = nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.up(torch.relu(self.down(x)))))
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def prepared() -> dict[str, Prepared]:
    torch.manual_seed(0)
    images = torch.randn(24, 3, 8, 8, dtype=torch.float64)
    tokens = torch.randn(24, 5, 6, dtype=torch.float64)
    labels = torch.arange(24) % 4
    out: dict[str, Prepared] = {}
    for name in ("residual", "depthwise", "concat", "grouped"):
        out[name] = (*analysed(settle(NETS[name]())), _batches(images, labels))
    out["transposed"] = (*analysed(settle(Transposed())), _batches(images, labels))
    out["transformer"] = (*transformer(), _batches(tokens, labels))
    return out


def _batches(inputs: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(12), labels.split(12), strict=True))


def _state(captured: Captured) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in captured.graph.state_dict().items()}


@pytest.mark.parametrize(
    "network", ["residual", "depthwise", "concat", "grouped", "transposed", "transformer"]
)
@pytest.mark.parametrize("criterion", available())
def test_scores_are_there_and_nothing_else_has_changed(
    criterion: str, network: str, prepared: dict[str, Prepared]
) -> None:
    captured, deps, labelled = prepared[network]
    data = [x for x, _ in labelled] if describe(criterion).data_need == "unlabelled" else labelled
    before, graph = _state(captured), captured.graph.code
    modes = [module.training for module in captured.graph.modules()]
    try:
        found = score(captured, deps, criterion, data)
    except CriterionError as error:
        # Nothing that the criterion looks at is there: said in so many words, and what to do.
        assert (criterion, network) in REFUSED and error.hint
        return
    assert (criterion, network) not in REFUSED
    for group in deps.groups:
        value = found[group.name]
        assert value.shape == (group.size,) and value.dtype == torch.float64
        assert bool(value.isfinite().all()) and bool((value != 0).any())
        assert len(value.unique()) > 1, f"{criterion} tells no unit of {group.name} from another"
    again = score(captured, deps, criterion, data)
    for name, value in found.items():
        torch.testing.assert_close(again[name], value, rtol=1e-9, atol=1e-12)
    assert captured.graph.code == graph
    assert [module.training for module in captured.graph.modules()] == modes
    assert all(p.grad is None for p in captured.graph.parameters())
    for name, value in _state(captured).items():
        assert torch.equal(value, before[name]), f"{criterion} has changed {name}"


#: BatchNorm criteria have nothing to say where there is no BatchNorm.
REFUSED = {("bn_scale", "transformer"), ("bn_distribution", "transformer")}

WITH_DATA = [name for name in available() if describe(name).data_need != "none"]


def _without_labels(batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [x for x, _ in batches]


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_data_that_is_no_use_is_refused(criterion: str, prepared: dict[str, Prepared]) -> None:
    captured, deps, labelled = prepared["residual"]
    need = describe(criterion).data_need
    with pytest.raises(CriterionError, match=f"criterion {criterion} needs {need} data, and none was given"):
        score(captured, deps, criterion)
    with pytest.raises(CriterionError, match="empty"):
        score(captured, deps, criterion, [])
    broken = [(x.clone(), y) for x, y in labelled]
    broken[1][0][3, 0, 2, 2] = torch.nan
    with pytest.raises(CriterionError):
        score(captured, deps, criterion, broken if need == "labelled" else _without_labels(broken))
    if need == "labelled":
        with pytest.raises(CriterionError, match="has none"):
            score(captured, deps, criterion, _without_labels(labelled))


@pytest.mark.parametrize("network", ["residual", "transformer"])
@pytest.mark.parametrize("criterion", WITH_DATA)
def test_one_example_is_scored_or_refused(
    criterion: str, network: str, prepared: dict[str, Prepared]
) -> None:
    captured, deps, labelled = prepared[network]
    one = [(labelled[0][0][:1], labelled[0][1][:1])]
    data = one if describe(criterion).data_need == "labelled" else _without_labels(one)
    try:
        found = score(captured, deps, criterion, data)
    except CriterionError as error:
        assert error.hint
        return
    assert all(bool((value != 0).any()) for value in found.values())
