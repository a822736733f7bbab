"""Constants that hold the batch size are opened, so that a graph runs at other batch sizes.

Exported graphs carry the batch size of the export in ``view``, ``reshape`` and ``expand``, also where it
is merged with other dimensions (the windows of all images, say). A batch of one cannot be told from
other dimensions of one, so models are exported with an unusual batch size; one walk over fake tensors
of the example's own batch size then finds where it sits.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

_log = logging.getLogger(__name__)

RESHAPES = frozenset({"aten.view.default", "aten.reshape.default", "aten._unsafe_view.default"})
_FACTOR = 13  # no usual size of anything
_RETRIES = 200


def unusual_batch(inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...] | None:
    """Inputs like the given ones with 13 times their batch; their values are not set.

    None when the inputs have no common first dimension.
    """
    if len({x.shape[0] if x.dim() else 0 for x in inputs}) != 1 or not inputs[0].dim():
        return None
    return tuple(
        torch.empty((x.shape[0] * _FACTOR, *x.shape[1:]), dtype=x.dtype, device=x.device).requires_grad_(
            x.requires_grad
        )
        for x in inputs
    )


def open_batch(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> str | None:
    """Make a graph that was exported with :func:`unusual_batch` one of the example's batch size.

    Batch sizes in reshapes become -1, so that every other batch size runs too. Tokens that are
    repeated once per image before a concatenation follow the tensor that they are joined to. Nothing
    is changed where that cannot be done.

    Parameters
    ----------
    module
        Graph of functional operators, sizes of reshapes written out.
    inputs
        The example inputs.

    Returns
    -------
    str or None
        None on success, else the reason.
    """
    walk = _Walk(module, inputs)
    try:
        walk.run()
    except Exception as error:  # whatever torch raises for shapes that do not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _log.info("the batch size stays as in the example: %s: %s", walk.at, reason)
        return f"at node {walk.at!r}: {reason}"
    for edit in walk.edits:
        edit()
    for node, value in walk.env.items():
        if isinstance(node.meta.get("val"), torch.Tensor):
            node.meta["val"] = value
            node.meta.pop("tensor_meta", None)
        elif "val" in node.meta:
            node.meta["val"] = value
    return None


class _FixedBatchError(Exception):
    """The batch size cannot be told from other sizes."""


@dataclass
class _Choice:
    """Dimensions of ``node`` that were not tried yet, and how many edits come before it."""

    node: fx.Node
    dims: list[int]
    edits: int


class _Walk:
    """The graph at the example's batch size, on fake tensors; ``edits`` make the graph follow.

    ``lead`` counts, for a tensor with the batch inside a merged dimension, the positions of that
    dimension that come before the batch (3 where queries, keys and values of all images are merged).
    """

    def __init__(self, module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
        self.module = module
        self.inputs = inputs
        self.batch = inputs[0].shape[0] * _FACTOR
        self.mode = FakeTensorMode()
        self.env: dict[fx.Node, object] = {}
        self.lead: dict[fx.Node, int] = {}
        self.edits: list[Callable[[], None]] = []
        self.choices: list[_Choice] = []
        self.at = ""

    def run(self) -> None:
        """Follow the batch; where it may sit in several dimensions, try one after another."""
        nodes = list(self.module.graph.nodes)
        inputs = iter(self.inputs)
        position, retries = 0, 0
        with self.mode, _quiet():
            for node in nodes:
                if node.op == "placeholder":
                    self.env[node] = self.mode.from_tensor(next(inputs), static_shapes=True)
            while position < len(nodes):
                self.at = nodes[position].name
                try:
                    self._step(nodes[position])
                    position += 1
                except Exception:
                    retries += 1
                    if not self.choices or retries > _RETRIES:
                        raise
                    position = nodes.index(self.choices[-1].node)
                    del self.edits[self.choices[-1].edits :]

    def _step(self, node: fx.Node) -> None:
        if node.op == "output":
            if not any(self._shrunk(source) for source in node.all_input_nodes):
                raise _FixedBatchError("no output has the batch")
            return
        if node.op != "placeholder":
            self.lead.pop(node, None)
            self.env[node] = self._value(node)
        shrunk = [source for source in node.all_input_nodes if self._shrunk(source)]
        like = node.meta.get("val")
        if shrunk and isinstance(like, torch.Tensor) and not self._shrunk(node):
            raise _FixedBatchError("it joins the batch with a constant of its size")
        self.lead.setdefault(node, max((self.lead[source] for source in shrunk), default=1))

    def _value(self, node: fx.Node) -> object:
        if node.op == "get_attr":
            value: object = operator.attrgetter(str(node.target))(self.module)
            if isinstance(value, torch.Tensor):
                return self.mode.from_tensor(value, static_shapes=True)
            return value
        if node.op != "call_function" or not callable(node.target):
            raise _FixedBatchError(f"{node.op} cannot be followed")
        name = str(node.target)
        if name in RESHAPES:
            return self._reshape(node)
        if name == "aten.expand.default":
            return self._expand(node)
        if name in ("aten.cat.default", "aten.concat.default"):
            return self._cat(node)
        return node.target(*fx.map_arg(node.args, self._of), **fx.map_arg(node.kwargs, self._of))

    def _of(self, node: fx.Node) -> Any:
        return self.env[node]

    def _shrunk(self, node: fx.Node) -> list[int]:
        """Dimensions that are smaller than they were at the export: the batch is in them."""
        value, like = self.env.get(node), node.meta.get("val")
        if not isinstance(value, torch.Tensor) or not isinstance(like, torch.Tensor):
            return []
        if value.dim() != like.dim():
            raise _FixedBatchError("it has other dimensions for another batch")
        return [dim for dim, size in enumerate(like.shape) if value.shape[dim] != size]

    def _reshape(self, node: fx.Node) -> object:
        source, sizes = node.args[0], _sizes(node)
        assert isinstance(source, fx.Node) and callable(node.target)
        shrunk = self._shrunk(source)
        if shrunk:
            if len(shrunk) > 1:
                raise _FixedBatchError("the batch is in two dimensions")
            before = math.prod(_sizes(source)[: shrunk[0]]) * self.lead[source]
            dim = self._choose(node, sizes, before)
            self.lead[node] = before // math.prod(sizes[:dim])
            sizes[dim] = -1
            self.edits.append(lambda: node.update_arg(1, sizes))
        return node.target(self.env[source], sizes)

    def _choose(self, node: fx.Node, sizes: Sequence[int], before: int) -> int:
        """A dimension that can hold the batch, of which ``before`` positions come first."""
        choice = self.choices[-1] if self.choices and self.choices[-1].node is node else None
        if choice is None:
            fits = _fitting(sizes, before, self.batch)
            if not fits:
                raise _FixedBatchError(f"the batch cannot be found in {list(sizes)}")
            choice = _Choice(node, fits, len(self.edits))
            self.choices.append(choice)
        dim = choice.dims.pop(0)
        if not choice.dims:
            self.choices.pop()
        return dim

    def _expand(self, node: fx.Node) -> object:
        source, sizes = node.args[0], _sizes(node)
        assert isinstance(source, fx.Node) and callable(node.target)
        for dim in self._shrunk(source):
            sizes[dim + len(sizes) - len(_sizes(source))] = -1
        if -1 in sizes:
            self.edits.append(lambda: node.update_arg(1, sizes))
        return node.target(self.env[source], sizes)

    def _cat(self, node: fx.Node) -> object:
        """Operands that are the same for all images are repeated like the others."""
        listed = node.args[0]
        assert isinstance(listed, list | tuple) and callable(node.target)
        operands = [source for source in listed if isinstance(source, fx.Node)]
        along = int(str(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)))
        values = [self.env[source] for source in operands]
        pattern = next((n for n in operands if self._shrunk(n)), None)
        if pattern is not None:
            along %= len(_sizes(pattern))
            for index, source in enumerate(operands):
                if self._shrunk(pattern) != [along] and not self._shrunk(source):
                    values[index] = self._repeat(node, source, pattern, along)
        return node.target(values, along)

    def _repeat(self, node: fx.Node, source: fx.Node, pattern: fx.Node, along: int) -> torch.Tensor:
        """``single.expand_as(pattern[..., :k])`` with the ``k`` positions that ``source`` has."""
        shrunk, count = self._shrunk(pattern), _sizes(source)[along]
        single = source.args[0] if str(source.target) == "aten.expand.default" else None
        fits = isinstance(single, fx.Node) and len(_sizes(single)) == len(_sizes(pattern))
        if not isinstance(single, fx.Node) or not fits or any(_sizes(single)[dim] != 1 for dim in shrunk):
            raise _FixedBatchError(f"{source.name!r} does not follow the batch")
        value, like = self.env[single], self.env[pattern]
        assert isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor)
        if along in shrunk or count > like.shape[along]:
            raise _FixedBatchError(f"{source.name!r} does not follow the batch")
        shape = like.narrow(along, 0, count)
        repeated = value.expand_as(shape)

        def edit() -> None:
            graph = node.graph
            with graph.inserting_before(node):
                part = graph.call_function(torch.ops.aten.slice.Tensor, (pattern, along, 0, count))
                part.meta = {**node.meta, "val": shape}
                tokens = graph.call_function(torch.ops.aten.expand_as.default, (single, part))
                tokens.meta = {**node.meta, "val": repeated}
            node.replace_input_with(source, tokens)

        self.edits.append(edit)
        return repeated


def _sizes(node: fx.Node) -> list[int]:
    return [int(size) for size in node.meta["val"].shape]


def _fitting(sizes: Sequence[int], before: int, batch: int) -> list[int]:
    """Dimensions that may hold the batch, ``before`` positions of a reshape's input being ahead of it.

    The likely ones come first: a dimension that begins where the batch begins.
    """
    leads = [math.prod(sizes[:dim]) for dim in range(len(sizes))]
    fits = [
        dim
        for dim, lead in enumerate(leads)
        if lead and before % lead == 0 and (lead * sizes[dim]) % (before * batch) == 0
    ]
    return sorted(fits, key=lambda dim: leads[dim] != before)


@contextmanager
def _quiet() -> Generator[None]:
    """torch logs what goes wrong with fake tensors as errors; here it is a question that is asked."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
