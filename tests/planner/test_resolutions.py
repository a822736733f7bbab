"""A network at several input resolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import UsageError
from hwprune.planner.network import Column
from hwprune.planner.resolutions import open_columns, resized
from hwprune.planner.workbench import Workbench, measure_profile
from hwprune.target import load_target
from tests.nets import conv_bn, settle
from tests.planner.residual_nets import IMAGE, Blocks


def bench(model: nn.Module, *inputs: Tensor) -> Workbench:
    captured = capture(settle(model), inputs or (IMAGE,))
    target = load_target("host", threads=1)
    return Workbench.open(captured, analyse(captured), target, profile=measure_profile("quick"), steps=3)


def test_each_resolution_is_the_network_captured_there():
    own = bench(Blocks())
    columns = open_columns(own, (8, (6, 12), 4, 8), analyse)
    assert [column.resolution for column in columns] == [None, (6, 12), (4, 4)]
    assert columns[0] == Column(own)
    for column in columns[1:]:
        assert column.resolution is not None
        network = column.network
        assert isinstance(network, Workbench)
        program = network.program_at(own.dense)
        alone = bench(Blocks(), torch.zeros(1, 3, *column.resolution)).program_at(own.dense)
        assert [s.spec for s in program.steps] == [s.spec for s in alone.steps]
        assert program.input_shapes == ((1, 3, *column.resolution),)
        assert network.model.domains == own.model.domains
        # Blocks are those of the network there, not what was found for another resolution.
        assert network.parts is not own.parts
        gone = frozenset({"one"})
        assert network.program_at({**own.dense, "one.a.0": 0}, gone).input_shapes == program.input_shapes


def test_the_other_side_follows_in_proportion():
    wide = bench(Blocks(), torch.zeros(1, 3, 8, 16))
    assert [column.resolution for column in open_columns(wide, (4,), analyse)] == [(4, 8)]


def test_only_images_of_the_first_ones_size_are_resized():
    image, other, number = torch.rand(2, 3, 8, 8), torch.rand(1, 1, 4, 4), torch.tensor([1, 2])
    mask = torch.rand(2, 1, 8, 8)
    found = resized((image, other, number, mask), (6, 4))
    assert [tuple(x.shape) for x in found] == [(2, 3, 6, 4), (1, 1, 4, 4), (2,), (2, 1, 6, 4)]
    assert torch.equal(found[1], other)


class Flat(nn.Module):
    """Its linear layer knows how large the image is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv_bn(3, 32), nn.Linear(32 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


def test_a_network_that_does_not_accept_a_resolution_says_so():
    with pytest.raises(UsageError, match="does not accept images of 6x6") as caught:
        open_columns(bench(Flat()), (6,), analyse)
    assert "head" in caught.value.message


def test_outputs_that_change_their_size_are_refused():
    model = nn.Sequential(conv_bn(3, 32), nn.Conv2d(32, 2, 1))
    with pytest.raises(
        UsageError, match=r"at 4x4 the sizes of the model's outputs change: \[\(1, 2, 4, 4\)\]"
    ):
        open_columns(bench(model), (4,), analyse)


def test_other_groups_are_refused():
    with pytest.raises(UsageError, match=r"other groups of channels, such as 'one\.a\.0'"):
        open_columns(bench(Blocks()), (4,), lambda captured: analyse(captured, exclude=("one.*",)))


@pytest.mark.parametrize("side", [0, -3, (0, 5)])
def test_what_is_no_resolution_is_refused(side: int | tuple[int, int]):
    with pytest.raises(UsageError, match="not an input resolution"):
        open_columns(bench(Blocks()), (side,), analyse)


def test_networks_without_images_have_no_resolution():
    rows = torch.zeros(1, 12)
    with pytest.raises(UsageError, match="no images among its inputs"):
        open_columns(bench(nn.Sequential(nn.Linear(12, 32), nn.Linear(32, 4)), rows), (4,), analyse)
    with pytest.raises(UsageError, match="no input resolution"):
        open_columns(bench(Blocks()), (), analyse)
