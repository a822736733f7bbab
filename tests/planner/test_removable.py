"""Which kernels go with a block: compared with networks that never had it."""

from __future__ import annotations

from collections import Counter

import pytest
from torch import nn

from hwprune.capture import capture
from hwprune.latency.fusion import fuse
from hwprune.surgery.blocks import remove_blocks
from tests.planner.made_network import bench
from tests.planner.residual_nets import IMAGE, Blocks, Doubled, Growing, Inverted, Nested


@pytest.mark.parametrize(
    ("kind", "removed"),
    [
        (Blocks, {"one"}),
        (Blocks, {"two"}),
        (Blocks, {"one", "two"}),
        (Inverted, {"branches.0"}),
        (Inverted, {"branches.0", "branches.2"}),
        (Inverted, {"branches.0", "branches.1", "branches.2"}),
    ],
)
def test_what_is_left_is_the_network_that_never_had_the_blocks(kind: type[nn.Module], removed: set[str]):
    found = bench(kind)
    names = {block.name: block for block in found.removable}
    chosen = [names[next(n for n in names if n.startswith(name))] for name in removed]
    gone = frozenset(block.name for block in chosen)
    model = remove_blocks(found.captured, [b for b in found.blocks.blocks if b.name in gone])[0]
    other = fuse(capture(model.eval(), IMAGE).graph).program()
    program = found.program_at(found.dense, gone)
    assert Counter(s.spec for s in program.steps) == Counter(s.spec for s in other.steps)
    # What the blocks say goes, goes, and nothing else.
    families = {name for block in chosen for name in block.families}
    stay = [f for f in found.model.families if f.name not in families]
    assert Counter(f.at(found.dense) for f in stay) == Counter(s.spec for s in other.steps)
    assert found.without(gone).kernels(found.dense) == [s.spec for s in program.steps]


def test_groups_inside_go_with_their_block():
    found = bench(Blocks)
    by_name = {block.name: block for block in found.removable}
    assert {name: block.groups for name, block in by_name.items()} == {
        "one": ("one.a.0",),
        "two": ("two.a.0",),
    }
    widths = {**found.model.dense, "one.a.0": 0}
    assert all(
        dim > 0 for s in found.program_at(widths, frozenset({"one"})).steps for dim in s.spec.inputs[0].shape
    )


def test_blocks_that_change_more_stay_and_the_reason_is_told():
    reasons = {line.name: line.reason for line in bench(Blocks).blocks.declined}
    assert list(reasons) == ["three"]
    assert "another kernel changes: bare (conv2d+relu)" in reasons["three"]


def test_of_nested_blocks_the_inner_one_can_go():
    found = bench(Nested)
    assert [block.name for block in found.removable] == ["inner"]
    (line,) = found.blocks.declined
    assert "holds blocks that can be removed one by one (inner)" in line.reason


def test_a_block_around_one_that_must_stay_can_go_with_it():
    found = bench(Doubled)
    (block,) = found.removable
    assert block.name not in {line.name for line in found.blocks.declined}
    assert block.groups == ("inner.a.0",)
    (line,) = found.blocks.declined
    assert line.name == "inner"


def test_a_network_without_blocks_has_none():
    assert bench(Growing).removable == ()
    assert bench(Growing).without(frozenset()) is bench(Growing).model
