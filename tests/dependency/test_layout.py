"""Ranges of axes against union-find over single positions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hwprune.dependency.layout import Axis, Layout, divide, length, period, resolve, scale, unify


def _positions(layout: Layout) -> list[tuple[int, int]]:
    return [(id(axis), unit) for axis, k in resolve(layout) for unit in range(axis.size) for _ in range(k)]


class _Naive:
    def __init__(self) -> None:
        self.parent: dict[object, object] = {}

    def find(self, x: object) -> object:
        while self.parent.setdefault(x, x) != x:
            x = self.parent[x]
        return x

    def union(self, x: object, y: object) -> None:
        self.parent[self.find(x)] = self.find(y)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_ties_are_exactly_those_of_union_find(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    axes = [Axis(size) for size in sizes]
    naive = _Naive()

    def draw_layout() -> tuple[Layout, list[object]]:
        picks = data.draw(
            st.lists(st.tuples(st.integers(0, len(axes) - 1), st.integers(1, 3)), min_size=1, max_size=3)
        )
        layout = tuple((axes[a], k) for a, k in picks)
        return layout, [(a, u) for a, k in picks for u in range(sizes[a]) for _ in range(k)]

    for _ in range(data.draw(st.integers(1, 3))):
        first, left = draw_layout()
        second, right = draw_layout()
        if len(left) != len(right):  # make both equally long with axes of their own
            filler = Axis(abs(len(left) - len(right)))
            axes.append(filler)
            sizes.append(filler.size)
            extra: list[object] = [(len(axes) - 1, u) for u in range(filler.size)]
            if len(left) < len(right):
                first, left = (*first, (filler, 1)), left + extra
            else:
                second, right = (*second, (filler, 1)), right + extra
        if not unify(first, second):
            return  # declined: the tracker then keeps everything
        for x, y in zip(left, right, strict=True):
            naive.union(x, y)
    units = [(a, u) for a, size in enumerate(sizes) for u in range(size)]
    ours = {
        (a, u): position
        for a, axis in enumerate(axes)
        for u, position in zip(range(sizes[a]), _positions(((axis, 1),)), strict=True)
    }
    for x in units:
        for y in units:
            assert (ours[x] == ours[y]) == (naive.find(x) == naive.find(y)), (x, y)


def test_same_position_of_every_group() -> None:
    channels, unit = Axis(12), Axis(4)
    assert unify(((channels, 1),), ((unit, 1),) * 3)
    pieces = resolve(((channels, 1),))
    assert [axis.size for axis, _ in pieces] == [4, 4, 4]
    assert len({axis for axis, _ in pieces}) == 1


def test_blocks_that_do_not_line_up_are_declined() -> None:
    x = Axis(2)
    assert not unify(((x, 3),), ((x, 2), (Axis(2), 1)))


def test_lengths_survive_every_rewriting() -> None:
    x = Axis(10)
    layout: Layout = ((x, 2),)
    assert unify(layout, ((Axis(3), 1), (Axis(17), 1))) in (True, False)
    assert length(resolve(layout)) == 20


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_dividing_keeps_positions_apart_from_the_torn_unit(data: st.DataObject) -> None:
    axes = [Axis(data.draw(st.integers(1, 6))) for _ in range(data.draw(st.integers(1, 3)))]
    picks = data.draw(st.lists(st.tuples(st.sampled_from(axes), st.integers(1, 3)), min_size=1, max_size=4))
    layout: Layout = tuple(picks)
    at = data.draw(st.integers(1, length(layout)))
    left, right, torn = divide(layout, at)
    assert (length(left), length(right)) == (at, length(layout) - at)
    wanted, found = _positions(layout), _positions(left) + _positions(right)
    gone = set(_positions(torn))
    assert len(gone) <= 1
    edge = [unit for axis, k in (*left[-1:], *right[:1]) for unit in _positions(((axis, k),))] if torn else []
    for a, b in zip(wanted, found, strict=True):
        assert a == b or (a in gone and b in edge)


def test_long_chains_of_links_do_not_recurse() -> None:
    # A residual stage of 5000 blocks: each sum makes the branch the new representative.
    stream: Layout = ((Axis(4), 1),)
    first = stream
    for _ in range(5000):
        branch: Layout = ((Axis(4), 1),)
        assert unify(branch, stream)
        stream = branch
    assert resolve(first) == resolve(stream)


def test_periods() -> None:
    a, b = Axis(3), Axis(2)
    once: Layout = ((a, 2), (b, 1))
    assert period(once * 3, 3) == once
    assert period(once * 3, 2) is None
    assert period(scale(once, 2), 1) is None


def test_a_unit_across_two_pieces_joins_them() -> None:
    x, y, wide = Axis(3), Axis(3), Axis(3)
    assert unify(((x, 1), (y, 1)), ((wide, 2),))
    units = _positions(((x, 1), (y, 1)))
    assert [units[0] == units[1], units[2] == units[3], units[4] == units[5]] == [True] * 3
    assert len(set(units)) == 3
