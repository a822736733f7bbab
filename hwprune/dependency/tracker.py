"""What the rules read and write while the graph is walked once."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from hwprune.dependency.layout import Axis, Layout, divide, length, resolve, unify
from hwprune.dependency.scope import matches
from hwprune.errors import DependencyError

Dims = Sequence[Layout | None]
"""One entry per dimension; None is a dimension whose size never changes."""


@dataclass(frozen=True)
class Parts:
    """The answer of a rule whose operator makes several tensors: dimensions of each."""

    tensors: Sequence[Dims]


class Barrier(Exception):
    """Raised by a rule that cannot say how channels pass: all of them are kept."""


@dataclass
class Tracker:
    """State of the analysis.

    Attributes
    ----------
    dims
        Layout of every dimension of every tensor node seen so far.
    frozen
        Layouts that must keep all units, with the reason, in the order they were found.
    producers
        ``(module path, node, layout)`` of every layer that makes channels.
    roles
        ``(get_attr node, dimension)`` to its roles, each with the first node of a layer in it.
        A weight that one layer makes channels with and another, transposed, reads them with has
        two.
    merges
        Nodes that combine several tensors position by position.
    readings
        ``(node, operand, dimension, kind)`` of every reading without a weight, see
        :class:`~hwprune.dependency.groups.Reading`.
    blocked
        Nodes without a rule, with the reason that the ledger gives for what they touch.
    several
        Layouts of the tensors of nodes that make several.
    pieces
        Nodes whose arguments hold sizes of parts of a dimension, with these parts: every piece of a
        split; what lies before a slice and the slice itself.
    free
        Axes made for repeated or constant positions, whose number is whatever it has to be.
    kept
        Axes known to be frozen when the walk met them: a hint for guesses, not all of them.
    inside_heads, inside_found
        Patterns of layers whose heads stay while positions within a head go, and those of them
        that a layer has matched.
    """

    dims: dict[fx.Node, list[Layout | None]] = field(default_factory=dict[fx.Node, list[Layout | None]])
    frozen: list[tuple[Layout, str]] = field(default_factory=list[tuple[Layout, str]])
    producers: list[tuple[str, fx.Node, Layout]] = field(default_factory=list[tuple[str, fx.Node, Layout]])
    roles: dict[tuple[fx.Node, int], dict[str, fx.Node]] = field(
        default_factory=dict[tuple[fx.Node, int], dict[str, fx.Node]]
    )
    merges: set[fx.Node] = field(default_factory=set[fx.Node])
    readings: list[tuple[fx.Node, fx.Node, int, str]] = field(
        default_factory=list[tuple[fx.Node, fx.Node, int, str]]
    )
    blocked: dict[fx.Node, str] = field(default_factory=dict[fx.Node, str])
    several: dict[fx.Node, list[list[Layout | None]]] = field(
        default_factory=dict[fx.Node, list[list[Layout | None]]]
    )
    pieces: dict[fx.Node, list[Layout]] = field(default_factory=dict[fx.Node, list[Layout]])
    free: set[Axis] = field(default_factory=set[Axis])
    kept: set[Axis] = field(default_factory=set[Axis])
    inside_heads: tuple[str, ...] = ()
    inside_found: set[str] = field(default_factory=set[str])

    def of(self, value: object) -> list[Layout | None]:
        """Layouts of a tensor argument; a parameter's dimensions are open until a rule ties them."""
        if not isinstance(value, fx.Node):
            raise Barrier("an argument is not a tensor of the graph")
        if value not in self.dims:
            if value.op != "get_attr" or shape(value) is None:
                raise Barrier(f"argument {value.name!r} is not a tensor")
            self.dims[value] = [fresh(size) for size in shape(value) or ()]
        return self.dims[value]

    def tie(self, first: Layout | None, second: Layout | None, node: fx.Node) -> None:
        """Equal positions of the two dimensions are the same channel."""
        if first is None or second is None:
            self.keep(first, f"tied to a fixed dimension at {label(node)}")
            self.keep(second, f"tied to a fixed dimension at {label(node)}")
        elif length(first) != length(second):
            raise Barrier(f"dimensions of {length(first)} and {length(second)} positions cannot be tied")
        elif not unify(first, second):
            self.keep(first, f"its blocks do not line up at {label(node)}")
            self.keep(second, f"its blocks do not line up at {label(node)}")

    def keep(self, layout: Layout | None, reason: str) -> None:
        """All channels of this dimension stay."""
        if layout:
            self.frozen.append((layout, reason))
            self.kept.update(axis for axis, _ in resolve(layout))

    def fixed(self, size: int, reason: str) -> Layout:
        """A dimension whose size never changes, as a layout."""
        layout = fresh(size)
        self.keep(layout, reason)
        return layout

    def open(self, size: int) -> Layout:
        """A dimension of equal positions, as many as it is tied to later."""
        layout = fresh(size)
        self.free.add(layout[0][0])
        return layout

    def is_inside(self, node: fx.Node) -> bool:
        """Whether positions within a head are the units in the layer that a node belongs to."""
        name = layer_name(node, None)
        found = [pattern for pattern in self.inside_heads if matches(name, pattern)]
        self.inside_found.update(found)
        return bool(found)

    def divide(self, layout: Layout, sizes: Sequence[int], node: fx.Node) -> list[Layout]:
        """Take a dimension apart; a unit that has positions in two parts stays."""
        reason = f"lies on both sides of a boundary of {label(node)}"
        parts: list[Layout] = []
        rest = layout
        for size in sizes[:-1]:
            left, rest, torn = divide(rest, size)
            parts.append(left)
            if torn:
                for kept in (torn, left[-1:], rest[:1]):
                    self.keep(kept, reason)
        return [*parts, rest]

    def produce(self, node: fx.Node, weight: object, layout: Layout) -> None:
        """``node`` makes the channels of ``layout`` with ``weight``."""
        self.producers.append((layer_name(node, weight), node, layout))

    def role(self, parameter: object, dim: int, role: str, node: fx.Node) -> None:
        """Note what ``node`` does with a dimension of a weight, seen through transpositions."""
        while isinstance(parameter, fx.Node) and parameter.op == "call_function":
            layout, source = self.dims[parameter][dim], _source(parameter)
            if layout is None or source is None or source not in self.dims:
                return
            found = [d for d, other in enumerate(self.dims[source]) if other is layout]
            if not found and len(self.dims[source]) == len(self.dims[parameter]):
                found = [dim]  # a part of it
            if len(found) != 1:
                return
            parameter, dim = source, found[0]
        if isinstance(parameter, fx.Node) and parameter.op == "get_attr":
            self.roles.setdefault((parameter, dim), {}).setdefault(role, node)

    def read(self, node: fx.Node, operand: object, dim: int, kind: str = "sum") -> None:
        """``node`` sums (or takes statistics) over a dimension of an operand without a weight."""
        if isinstance(operand, fx.Node) and self.of(operand)[dim] is not None:
            self.readings.append((node, operand, dim % len(self.of(operand)), kind))

    def store(self, node: fx.Node, answer: Dims | Parts) -> None:
        """Record a rule's answer; it must fit the tensor."""
        if not isinstance(answer, Parts):
            self.dims[node] = _fitting(node, answer, shape(node))
            return
        shapes = shapes_of(node)
        if len(shapes) != len(answer.tensors):
            raise DependencyError(
                f"the dependency rule of {label(node)} answered with {len(answer.tensors)} tensors, "
                f"it makes {len(shapes)}",
                hint="correct the rule",
            )
        self.several[node] = [_fitting(node, *pair) for pair in zip(answer.tensors, shapes, strict=True)]

    def block(self, node: fx.Node, reason: str) -> None:
        """Keep every channel that enters ``node``; its outputs have fixed sizes, for that reason."""
        if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            reason = self.blocked.get(node.args[0], reason)
        self.blocked[node] = reason
        for source in node.all_input_nodes:
            for dims in (self.dims.get(source, []), *self.several.get(source, [])):
                for layout in dims:
                    self.keep(layout, reason)
            if source.op == "get_attr" and source not in self.dims and shape(source) is not None:
                for layout in self.of(source):
                    self.keep(layout, reason)
        sizes = shape(node)
        if sizes is not None:
            self.dims[node] = [self.fixed(size, reason) for size in sizes]


def fresh(size: int) -> Layout:
    """An untied dimension."""
    return ((Axis(size), 1),)


def shape(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of the tensor that a node makes, None if it makes no single tensor."""
    value = node.meta.get("val")
    return tuple(int(n) for n in value.shape) if isinstance(value, torch.Tensor) else None


def is_weight(node: fx.Node) -> bool:
    """A parameter or buffer, or something computed from a single one in a few steps."""
    for _ in range(8):
        if node.op == "get_attr":
            return True
        sources = node.all_input_nodes
        if node.op != "call_function" or len(sources) != 1:
            return False
        node = sources[0]
    return False


def shapes_of(node: fx.Node) -> list[tuple[int, ...] | None]:
    """Shapes of the tensors of a node that makes several."""
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else ()
    return [tuple(int(n) for n in v.shape) if isinstance(v, torch.Tensor) else None for v in values]


def _fitting(node: fx.Node, dims: Dims, sizes: tuple[int, ...] | None) -> list[Layout | None]:
    fits = sizes is not None and len(sizes) == len(dims)
    if not fits or any(d is not None and length(d) != n for d, n in zip(dims, sizes or (), strict=True)):
        raise DependencyError(
            f"the dependency rule of {label(node)} answered with dimensions "
            f"{[None if d is None else length(d) for d in dims]} for a tensor of shape {sizes}",
            hint="correct the rule",
        )
    return list(dims)


def _source(node: fx.Node) -> fx.Node | None:
    """What a node shows: its first argument, through the picking of one of several tensors."""
    source = node.args[0] if node.args else None
    if node.target is operator.getitem and isinstance(source, fx.Node):
        source = source.args[0]
    return source if isinstance(source, fx.Node) else None


def label(node: fx.Node) -> str:
    """An operator and its node, for messages."""
    return f"{str(node.target).removesuffix('.default')} (node {node.name!r})"


def layer_name(node: fx.Node, weight: object) -> str:
    """Module path of the layer that a node belongs to, the parameter's or node's name without one."""
    target = str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""
    stack: Iterable[tuple[str, object]] = (node.meta.get("nn_module_stack") or {}).values()
    path = next((path for path, _ in reversed(list(stack))), "")
    path = path.split("@")[0]
    if path and (target in ("", f"{path}.weight") or not target.startswith(f"{path}.")):
        return path
    return target.removesuffix(".weight") or node.name
