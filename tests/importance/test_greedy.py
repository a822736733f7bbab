"""Filter norms that do not count what reads removed channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwprune.errors import UsageError
from hwprune.importance import score
from hwprune.importance.upstream import from_input_to_output
from tests.importance.nets import analysed, convolution, transformer
from tests.nets import Residual


def _chain() -> nn.Sequential:
    """The first filter of the second layer has all its mass on the input that is removed first."""
    first = convolution([[0.1, 0, 0], [3, 0, 0], [0, 4, 0], [0, 0, 0.2]])
    second = convolution([[10, 0, 0, 0], [0, 1, 2, 0], [0, 0, 3, 5]])
    return nn.Sequential(first, second, convolution([[1, 1, 1]]))


def test_greedy_scores_forget_the_slices_of_removed_inputs() -> None:
    captured, deps = analysed(_chain())
    # Units 0 and 3 of the first layer go.
    first, second = (score(captured, deps, "l1", variant="greedy")[g.name] for g in deps.groups)
    torch.testing.assert_close(first, torch.tensor([0.1, 3, 4, 0.2], dtype=torch.float64) * (4 / 7.3))
    torch.testing.assert_close(second, torch.tensor([0.0, 3, 3], dtype=torch.float64) / 2)
    whole = score(captured, deps, "l1")["1"]
    torch.testing.assert_close(whole, torch.tensor([10.0, 3, 8], dtype=torch.float64) / 7)
    assert whole.argmin() != second.argmin()
    # The model itself keeps its weights.
    assert captured.graph.get_parameter("1.weight")[0, 0] == 10


def test_what_is_kept_may_be_a_share_or_a_count() -> None:
    captured, deps = analysed(_chain())
    three = score(captured, deps, "l1", variant="greedy", keep={"0": 3})["1"]
    torch.testing.assert_close(three, torch.tensor([0.0, 3, 8], dtype=torch.float64) * (3 / 11))
    share = score(captured, deps, "l1", variant="greedy", keep=0.75)["1"]
    torch.testing.assert_close(share, three)
    for keep in (1.0, {}):
        everything = score(captured, deps, "l2", variant="greedy", keep=keep)
        for name, value in score(captured, deps, "l2").items():
            torch.testing.assert_close(everything[name], value)


def test_units_behind_a_flatten_are_forgotten_at_all_their_positions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 5, bias=False), nn.Flatten(), nn.Linear(32, 6), nn.Linear(6, 2))
    model[0].weight.data[1] *= 10
    captured, deps = analysed(model)
    found = score(captured, deps, "l1", variant="greedy", keep={"0": 1})["2"]
    expected = model[2].weight.detach()[:, 16:].abs().sum(1)
    torch.testing.assert_close(found, expected / expected.mean())


def test_a_residual_stage_goes_before_the_groups_inside_it() -> None:
    torch.manual_seed(0)
    model = Residual()
    captured, deps = analysed(model)
    order = [group.name for group in from_input_to_output(captured, deps.groups)]
    assert order.index("stem.0") == 0 and order.index("a1.0") < order.index("b1.0")
    independent = score(captured, deps, "l1")
    found = score(captured, deps, "l1", variant="greedy", keep={"stem.0": 3})
    torch.testing.assert_close(found["stem.0"], independent["stem.0"])
    kept = independent["stem.0"].topk(3).indices
    expected = model.a1[0].weight.detach()[:, kept].abs().sum((1, 2, 3))
    torch.testing.assert_close(found["a1.0"], expected / expected.mean())


def test_heads_and_hidden_units_of_a_transformer() -> None:
    captured, deps = transformer()
    found = score(captured, deps, "l2", variant="greedy", keep={"embed": 5})
    weight = captured.graph.get_parameter("qkv.weight").detach()
    kept = score(captured, deps, "l2")["embed"].topk(5).indices
    heads = weight[:, kept].reshape(3, 3, 4, 5).square().sum((0, 2, 3)).sqrt()
    torch.testing.assert_close(found["qkv"], heads / heads.mean())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"variant": "both"}, "no variant 'both'"),
        ({"keep": 0.5}, "removes nothing while it scores"),
        ({"variant": "greedy", "keep": 0.0}, r"keep a share of 0\.0"),
        ({"variant": "greedy", "keep": 1.5}, r"keep a share of 1\.5"),
        ({"variant": "greedy", "keep": {"nowhere": 1}}, "'nowhere', which is no group"),
        ({"variant": "greedy", "keep": {"0": 9}}, "keep 9 units of group 0, which has 4"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        score(*analysed(_chain()), "l1", **parameters)
