"""Rules of operators that make tensors from nothing: constants have no channels."""

from __future__ import annotations

from torch import fx

from hwprune.dependency.rules import rule
from hwprune.dependency.tracker import Dims, Parts, Tracker, label, shape, shapes_of


@rule("zeros", "ones", "full", "empty.memory_format", "new_zeros", "new_ones", "new_full", "new_empty")
def uniform(t: Tracker, node: fx.Node) -> Dims:
    """The same number everywhere: as many positions as are needed."""
    return [t.open(size) for size in shape(node) or ()]


@rule(
    "arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m", "tril_indices", "scalar_tensor"
)
def constant(t: Tracker, node: fx.Node) -> Dims:
    """Numbers that differ from position to position: no dimension of them can be cut."""
    return [None] * len(shape(node) or ())


@rule("meshgrid", "meshgrid.indexing")
def meshgrid(t: Tracker, node: fx.Node) -> Parts:
    """Coordinates: their tensors stay."""
    for source in node.all_input_nodes:
        for layout in t.of(source):
            t.keep(layout, f"is a coordinate of {label(node)}")
    return Parts([[None] * len(sizes or ()) for sizes in shapes_of(node)])
