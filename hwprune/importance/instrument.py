"""Copies of a captured graph in which values go through modules of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx, nn

from hwprune.capture.captured import Captured
from hwprune.capture.copies import quiet_copy
from hwprune.capture.trainable import TrainableGraph
from hwprune.importance.places import Place


class CopiedGraph:
    """A copy of a captured graph, to be changed.

    It reads the tensors of the captured graph, but as parameters that require no gradients: what is
    to be differentiated is what is put into it. It has the modes of the captured graph's nodes.
    """

    def __init__(self, captured: Captured) -> None:
        source = captured.graph
        graph = quiet_copy(source.graph)
        self.module = TrainableGraph(source, graph, class_name="Instrumented")
        for module in self.module.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.detach(), requires_grad=False))
        # A copied graph keeps the order of its nodes.
        self.twin: dict[str, fx.Node] = {
            old.name: new for old, new in zip(source.graph.nodes, graph.nodes, strict=True)
        }
        self._count = 0

    def send_through(self, places: Sequence[Place], make: Callable[[Sequence[Place]], nn.Module]) -> None:
        """Send the values at places through modules.

        Parameters
        ----------
        places
            Not of kind ``"statistics"``. Where several are on one node for the same readers they share
            a module.
        make
            Makes the module (one tensor in, one of its shape out) for such places.
        """
        graph = self.module.graph
        # Those for all readers come last, so that the others are among their readers.
        for node, readers, members in sorted(_shared(places), key=lambda entry: entry[1] is None):
            value = self.twin[node]
            users = list(value.users) if readers is None else [self.twin[reader] for reader in readers]
            name = self._add(make(members))
            with graph.inserting_after(value):
                changed = graph.call_module(name, (value,))
            for user in users:
                user.replace_input_with(value, changed)

    def replace(self, node: str, module: nn.Module) -> None:
        """Put a module, which takes the arguments of a node, in its place."""
        old = self.twin[node]
        with self.module.graph.inserting_before(old):
            new = self.module.graph.call_module(self._add(module), tuple(old.args), dict(old.kwargs))
        old.replace_all_uses_with(new)
        self.module.graph.erase_node(old)
        self.twin[node] = new

    def finished(self) -> fx.GraphModule:
        """The copy, ready to run."""
        self.module.graph.lint()
        self.module.recompile()
        return self.module

    def _add(self, module: nn.Module) -> str:
        name = f"hwprune_{self._count}"
        self._count += 1
        self.module.add_submodule(name, module)
        return name


def _shared(places: Sequence[Place]) -> list[tuple[str, tuple[str, ...] | None, list[Place]]]:
    """Places by node and readers; readers to which the same happens are put together."""
    single: dict[tuple[str, str | None], list[Place]] = {}
    for place in places:
        for reader in (None,) if place.readers is None else place.readers:
            single.setdefault((place.node, reader), []).append(place)
    together: dict[tuple[object, ...], tuple[str, list[str | None], list[Place]]] = {}
    for (node, reader), members in single.items():
        same = tuple((p.dim, p.group, tuple(p.units.tolist())) for p in members)
        key = (node, reader is None, same)
        together.setdefault(key, (node, [], members))[1].append(reader)
    return [
        (node, None if None in readers else tuple(r for r in readers if r is not None), members)
        for node, readers, members in together.values()
    ]
