"""Which factor of a split dimension carries the units: a guess, made from what happens to it later.

A reshape from [C] to [A, B] can be cut along A (a unit is a block of B neighbours) or along B (a
unit is one position in each of A blocks), not along both: widths are sums, not products. Both are
exact; a wrong guess only makes the other factor one that must stay, and that costs channels.

1. A factor that is taken apart position by position later (unbound, selected, indexed, reduced, put
   through a softmax) has a meaning at each position: it stays. The 3 of a fused query-key-value
   projection, the two halves of a gated unit, the branches of a split attention. If that happens to
   all, the one to which it happens last carries.
2. A factor that is split into ranges, or merged with dimensions of another origin, stays if another
   can carry: the factors of a pixel shuffle become spatial.
3. Two factors that change places and are merged again are a channel shuffle: the larger carries.
4. Repetitions that are there already stay: if the channels are B times the same units, a leading
   factor B is that repetition (a batch, merged with the channels and split again).
5. Otherwise the first factor carries: of [heads, size of a head] the heads.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from torch import fx

from hwprune.dependency.arguments import line_up, permutation
from hwprune.dependency.layout import Layout, period
from hwprune.dependency.tracker import Barrier, shape, shapes_of

_FAR = 60  # nodes that are looked at

Tags = tuple[int | None, ...]
"""For every dimension of a tensor the factor that it holds, by its dimension behind the split."""


def carrier(node: fx.Node, factors: Sequence[int], layout: Layout) -> int:
    """Choose among the dimensions of ``node`` over which a split spreads ``layout``.

    Parameters
    ----------
    node
        The reshape.
    factors
        Dimensions of its output with more than one position, in order.
    layout
        The units of the dimension that is split.
    """
    sizes = shape(node) or ()
    seen = _Outlook()
    seen.look(node, tuple(dim if dim in factors else None for dim in range(len(sizes))))
    stays = set(seen.fixed)
    for dim in factors:  # repetitions
        inside = period(layout, sizes[dim])
        if inside is None:
            break
        layout = inside
        stays.add(dim)
    last = [dim for dim in seen.fixed if dim in factors][-1:]
    candidates = [dim for dim in factors if dim not in stays] or last or list(factors)
    candidates = [dim for dim in candidates if dim not in seen.mixed] or candidates
    shuffled = [dim for dim in candidates if dim in seen.shuffled]
    if shuffled and shuffled == candidates:
        return max(reversed(shuffled), key=lambda dim: sizes[dim])
    return candidates[0]


# Name of the operator, to the place of its dimension argument.
_TAKES_APART = {
    "select": 1, "unbind": 1, "chunk": 2, "split": 2, "split_with_sizes": 2, "tensor_split": 2, "narrow": 1,
    "index_select": 1, "flip": 1, "roll": 2, "softmax": 1, "log_softmax": 1, "cumsum": 1, "mean": 1, "sum": 1,
    "amax": 1, "amin": 1, "max": 1, "min": 1, "slice": 1, "logsumexp": 1, "glu": 1,
}  # fmt: skip
_RANGES = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "narrow", "slice"})
_MIXES = re.compile(r"conv|linear|lstm|einsum")
_PLACES = frozenset({"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"})


class _Outlook:
    """What happens to the factors in the nodes that follow."""

    def __init__(self) -> None:
        self.fixed: dict[int, None] = {}  # in the order in which it was found
        self.mixed: set[int] = set()
        self.shuffled: set[int] = set()

    def look(self, node: fx.Node, tags: Tags) -> None:
        """Follow the tensor of ``node`` to its users, theirs, and so on."""
        waiting: deque[tuple[fx.Node, fx.Node, Tags]] = deque((node, user, tags) for user in node.users)
        for _ in range(_FAR):
            if not waiting:
                return
            source, user, tags = waiting.popleft()
            try:
                after = self._pass(source, user, tags)
            except Barrier:
                continue
            if after is not None and any(tag is not None for tag in after):
                waiting.extend((user, following, after) for following in user.users)

    def _pass(self, source: fx.Node, user: fx.Node, tags: Tags) -> Tags | None:
        before, after = shape(source), shape(user)
        name = str(user.target).removeprefix("aten.").split(".")[0]
        if user.op != "call_function" or _MIXES.match(name):
            return None
        if "getitem" in name:
            return tags if after is not None and len(after) == len(tags) else None
        if user.args[:1] == (source,) and name in _TAKES_APART:
            return self._taken_apart(user, tags, name, before, after)
        if name == "index":
            return self._indexed(user, tags)
        if before is None or after is None:
            return None
        order = permutation(user)
        if order is not None:
            return tuple(tags[dim] for dim in order)
        if name in _PLACES:
            return self._reshaped(tags, before, after)
        if name == "expand":
            return (None,) * (len(after) - len(tags)) + tags
        lead = len(after) - len(before)
        if lead >= 0 and all(a in (1, b) for a, b in zip(before, after[lead:], strict=True)):
            return (None,) * lead + tags
        return None

    def _taken_apart(
        self,
        user: fx.Node,
        tags: Tags,
        name: str,
        before: tuple[int, ...] | None,
        after: tuple[int, ...] | None,
    ) -> Tags | None:
        place = _TAKES_APART[name]
        given = user.args[place] if len(user.args) > place else user.kwargs.get("dim", 0)
        dims = given if isinstance(given, list | tuple) else [given]
        chosen = {dim % len(tags) for dim in dims if isinstance(dim, int)}
        if "slice" in str(user.target) and before == after:
            return tags
        left = tuple(tag for dim, tag in enumerate(tags) if dim not in chosen)
        sizes = after or next(iter(shapes_of(user)), None)
        if sizes is None:
            return None
        for dim in chosen:
            tag = tags[dim]
            if tag is None:
                continue
            if name in _RANGES and dim < len(sizes) and sizes[dim] > 1:
                self.mixed.add(tag)
            else:
                self.fixed.setdefault(tag)
        return tags if len(sizes) == len(tags) else left if len(sizes) == len(left) else None

    def _indexed(self, user: fx.Node, tags: Tags) -> None:
        indices = user.args[1] if len(user.args) > 1 else ()
        for tag, index in zip(tags, indices if isinstance(indices, list | tuple) else (), strict=False):
            if tag is not None and index is not None:
                self.fixed.setdefault(tag)

    def _reshaped(self, tags: Tags, before: tuple[int, ...], after: tuple[int, ...]) -> Tags:
        out: list[int | None] = [None] * len(after)
        for sources, results in line_up(before, after):
            big = [dim for dim in sources if before[dim] > 1]
            places = [dim for dim in results if after[dim] > 1]
            held = [tags[dim] for dim in big if tags[dim] is not None]
            factors = [tag for tag in held if tag is not None]
            if len(big) == 1 and len(places) == 1:
                out[places[0]] = tags[big[0]]
            elif len(factors) > 1 and factors != sorted(factors):
                self.shuffled.update(factors)
            elif len(big) > len(factors) and not (0 in big and tags[0] is None):  # not only with a batch
                self.mixed.update(factors)
        return tuple(out)
