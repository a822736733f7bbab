"""Kernels that differ in channel counts only: what may be compared, and interpolated between.

A :class:`KernelFamily` belongs to one layer. Layers of one network, and of several, have families
that are the same but for the names of their groups; their measured kernels are points on one
surface over channel counts. A *shape* is what they share.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hwprune.extent import Extent
from hwprune.latency.kernel import FamilyOp, KernelFamily, KernelOp, KernelSpec, OpenValue

#: Levels at which groups are varied together where there are too many for every combination.
LEVELS = 8
#: Combinations of widths that are enumerated for one family at most.
MAX_COMBINATIONS = 4096


@dataclass(frozen=True)
class Dim:
    """A dimension: ``scale * axis + offset``, or ``offset`` where ``axis`` is -1."""

    axis: int
    scale: Fraction
    offset: int

    def __str__(self) -> str:
        return str(self.offset) if self.axis < 0 else f"{self.scale}*c{self.axis}+{self.offset}"


class Shape:
    """What the kernels of a family have in common, and where each of them lies.

    Coordinates are channel counts, one per independent dimension of the family. A concatenation
    has as many as it has inputs, which nobody could measure; what it costs is decided by the
    number of its inputs and their channels together, so those two are its coordinates.

    Attributes
    ----------
    key
        Equal for families whose kernels lie on one surface.
    chain
        Its operators, as the labels of kernels name them.
    """

    def __init__(self, family: KernelFamily) -> None:
        self._family = family
        self._places: dict[str, tuple[int, ...] | None] = {}
        self._axes: list[Extent] = []
        self._joined = family.ops[0].kind == "cat"
        self._inputs = [tuple(self._dim(e) for e in i.shape) for i in family.inputs]
        self._values = [_open_values(op, self._dim) for op in family.ops]
        self._roles = [(i.role, i.dtype) for i in family.inputs]
        self._ops = family.ops
        self._plain = family.plain_output
        self._groups = family.groups
        one = family.at(dict.fromkeys(family.groups, 1))
        self.chain = one.label().split(" ", 1)[0]
        self.key = self._joined_key(one) if self._joined else self._key()

    def coordinates(self, spec: KernelSpec) -> tuple[int, ...] | None:
        """Where a kernel lies, or ``None`` if it is not of this shape."""
        digest = spec.digest()
        if digest not in self._places:
            of_another = spec.plain_output != self._plain
            find = self._joined_coordinates if self._joined else self._match
            self._places[digest] = None if of_another else find(spec)
        return self._places[digest]

    @property
    def is_joined(self) -> bool:
        """Whether kernels that differ only in how channels are shared out are at the same place."""
        return self._joined

    @property
    def independent(self) -> tuple[Extent, ...]:
        """Sizes of this shape's own family of which each moves one coordinate, where groups move it."""
        if not self._joined:
            return tuple(self._axes)
        parts = [self._family.inputs[p].shape[1] for p in self._family.ops[0].args]
        return (Extent(sum(p.fixed for p in parts), tuple(t for p in parts for t in p.terms)),)

    @property
    def classes(self) -> list[tuple[str, ...]]:
        """Groups of this shape's own family, those together that move the same coordinates."""
        found: dict[tuple[int, ...], list[str]] = {}
        for group in self._groups:
            moved = tuple(i for i, axis in enumerate(self._axes) if group in axis.groups)
            found.setdefault(() if self._joined else moved, []).append(group)
        return [tuple(groups) for groups in found.values()]

    def _dim(self, extent: Extent) -> Dim:
        terms = _terms(extent)
        if not terms:
            return Dim(-1, Fraction(0), extent.fixed)
        for number, axis in enumerate(self._axes):
            ratio = _ratio(terms, _terms(axis))
            offset = None if ratio is None else extent.fixed - ratio * axis.fixed
            if ratio is not None and offset is not None and offset.denominator == 1:
                return Dim(number, ratio, int(offset))
        self._axes.append(extent)
        return Dim(len(self._axes) - 1, Fraction(1), 0)

    def _key(self) -> str:
        inputs = [[[str(d) for d in dims], *r] for dims, r in zip(self._inputs, self._roles, strict=True)]
        ops = [[op.kind, list(op.args), values] for op, values in zip(self._ops, self._values, strict=True)]
        return json.dumps([inputs, ops, self._plain], separators=(",", ":"), default=str)

    def _match(self, spec: KernelSpec) -> tuple[int, ...] | None:
        if [(i.role, i.dtype) for i in spec.inputs] != self._roles or len(spec.ops) != len(self._ops):
            return None
        found: dict[int, Fraction] = {}
        for item, dims in zip(spec.inputs, self._inputs, strict=True):
            if len(item.shape) != len(dims):
                return None
            if not all(_bind(size, dim, found) for size, dim in zip(item.shape, dims, strict=True)):
                return None
        for op, own, values in zip(spec.ops, self._ops, self._values, strict=True):
            if (op.kind, op.args) != (own.kind, own.args) or not _same_values(op, values, found):
                return None
        if len(found) < len(self._axes) or any(x.denominator != 1 for x in found.values()):
            return None
        return tuple(int(found[i]) for i in range(len(self._axes)))

    def _joined_key(self, spec: KernelSpec) -> str:
        return json.dumps(["joined", *_joined_form(spec), self._plain], separators=(",", ":"), default=str)

    def _joined_coordinates(self, spec: KernelSpec) -> tuple[int, int] | None:
        if spec.ops[0].kind != "cat" or self.key != self._joined_key(spec):
            return None
        parts = spec.ops[0].args
        return len(parts), sum(spec.inputs[p].shape[1] for p in parts)


def candidates(
    family: KernelFamily, domains: Mapping[str, Sequence[int]]
) -> dict[tuple[int, ...], KernelSpec]:
    """Kernels of a family over the widths on offer, by coordinates.

    Groups that only change a sum of channels are varied together.
    """
    shape = Shape(family)
    classes = shape.classes
    levels = [len(domains[c[0]]) if len(c) == 1 else LEVELS for c in classes]
    while math.prod(levels) > MAX_COMBINATIONS:
        levels[levels.index(max(levels))] -= 1
    found: dict[tuple[int, ...], KernelSpec] = {}
    for choice in itertools.product(*(range(n) for n in levels)):
        widths: dict[str, int] = {}
        for groups, level, count in zip(classes, choice, levels, strict=True):
            for group in groups:
                own = domains[group]
                widths[group] = own[round(level * (len(own) - 1) / max(1, count - 1))]
        spec = family.at(widths)
        place = shape.coordinates(spec)
        assert place is not None, family.name
        found.setdefault(place, spec)
    return found


def _terms(extent: Extent) -> dict[str, int]:
    total: dict[str, int] = {}
    for group, k in extent.terms:
        total[group] = total.get(group, 0) + k
    return total


def _ratio(terms: Mapping[str, int], base: Mapping[str, int]) -> Fraction | None:
    """The factor between two sums of the same groups, if there is one."""
    if terms.keys() != base.keys():
        return None
    ratios = {Fraction(k, base[group]) for group, k in terms.items()}
    return ratios.pop() if len(ratios) == 1 else None


def _open_values(op: KernelOp | FamilyOp, dim: Callable[[Extent], Dim]) -> list[tuple[str, object]]:
    def value(given: OpenValue) -> object:
        if isinstance(given, Extent):
            return dim(given)
        if isinstance(given, tuple):
            return tuple(dim(v) if isinstance(v, Extent) else v for v in given)
        return given

    return [(name, value(given)) for name, given in op.attributes]


def _bind(value: object, dim: object, found: dict[int, Fraction]) -> bool:
    """Whether a number agrees with a dimension, given what is known of the axes."""
    if not isinstance(dim, Dim):
        return value == dim
    if not isinstance(value, int) or dim.axis < 0:
        return value == dim.offset
    place = Fraction(value - dim.offset) / dim.scale
    return found.setdefault(dim.axis, place) == place


def _flat(values: Iterable[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, tuple):
            yield from value
        else:
            yield value


def _same_values(op: KernelOp, values: list[tuple[str, object]], found: dict[int, Fraction]) -> bool:
    if [name for name, _ in op.attributes] != [name for name, _ in values]:
        return False
    given = list(_flat(value for _, value in op.attributes))
    wanted = list(_flat(value for _, value in values))
    return len(given) == len(wanted) and all(_bind(g, w, found) for g, w in zip(given, wanted, strict=True))


def _joined_form(spec: KernelSpec) -> tuple[object, ...]:
    """What a concatenation is besides its channels: operators, map and where its weights go."""
    parts = len(spec.ops[0].args)
    roles = sorted({(i.role, i.dtype, len(i.shape), i.shape[2:]) for i in spec.inputs}, key=str)
    ops = [(op.kind, len(op.args) if n else 0, op.attributes) for n, op in enumerate(spec.ops)]
    return (roles, ops, len(spec.inputs) - parts)
