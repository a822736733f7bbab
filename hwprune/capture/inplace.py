"""In-place operators become functional ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx
from torch._ops import OpOverload

from hwprune.capture.views import Window, can_show_through, show_through
from hwprune.errors import CaptureError

aten = torch.ops.aten
_HINT = "write the operation out of place (y = f(x) instead of f_(x)) in the model's forward"

# These may return their input itself although their schema does not say so.
_HIDDEN_ALIASES = frozenset({"aten.dropout.default", "aten.feature_dropout.default"})


def make_functional(graph: fx.Graph) -> None:
    """Replace every in-place ATen operator by its functional form.

    Later uses of the value that was written to are rewired to the new node. Where it is a view, the
    tensor that it is a part of is made anew with that part exchanged, and its later uses too.

    Raises
    ------
    CaptureError
        A parameter or buffer is written to; a view is written to and another view of the same tensor
        is read later, or the view is of a kind that has no way back; the operator has no functional
        form, or the functional form would promote the dtype.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    memory = _Memory()
    for node in list(graph.nodes):
        memory.add(node, _shows(node))
        if not _writes_first_argument(node):
            continue
        target = node.args[0]
        assert isinstance(target, fx.Node)
        path = _path(node, target, memory, order)
        _rewrite(graph, node, target, order)
        memory.add(node, target if path else None)
        memory.windows[node] = None
        written = node
        for window in path:
            whole = show_through(graph, window, written)
            order[whole] = order[node]
            memory.add(whole, window.source)
            memory.windows[written], memory.windows[whole] = Window(window.view, whole), None
            _use_instead(window.source, whole, order)
            written = whole


class _Memory:
    """Which nodes show the same memory, and through which window.

    ``owner`` is, for every node, the first one of its memory, and ``shown_by`` the reverse.
    ``windows`` holds how a tensor that a write has made is seen in what it is a part of, None for
    one that is a whole.
    """

    def __init__(self) -> None:
        self.owner: dict[fx.Node, fx.Node] = {}
        self.shown_by: dict[fx.Node, list[fx.Node]] = {}
        self.windows: dict[fx.Node, Window | None] = {}

    def add(self, node: fx.Node, source: fx.Node | None) -> None:
        """A node that shows the memory of ``source``, or memory of its own."""
        if node in self.owner:
            self.shown_by[self.owner[node]].remove(node)
        self.owner[node] = node if source is None else self.owner[source]
        self.shown_by.setdefault(self.owner[node], []).append(node)

    def path(self, node: fx.Node) -> list[Window]:
        """The windows from a node out to the whole tensor that it is a part of."""
        found: list[Window] = []
        while True:
            source = _shows(node)
            seen = None if source is None else Window(node, source)
            window = self.windows.get(node, seen)
            if window is None:
                return found
            found.append(window)
            node = window.source


def _path(node: fx.Node, target: fx.Node, memory: _Memory, order: Mapping[fx.Node, int]) -> list[Window]:
    """The windows through which a write must be made visible; none where nobody looks later."""
    owner = memory.owner[target]
    if owner.op == "get_attr":
        raise CaptureError(
            f"{node.target} (node {node.name!r}) writes into parameter or buffer {owner.target!r}",
            hint=_HINT,
        )
    path = memory.path(target)
    parts = {window.source for window in path}
    later = {
        other: readers[0]
        for other in memory.shown_by[owner]
        if other not in (node, target) and (readers := _later(other, order, node))
    }
    if not all(can_show_through(window.view) for window in path):
        parts = set()
    for other, reader in later.items():
        if other not in parts:
            raise CaptureError(
                f"{node.target} (node {node.name!r}) writes into a view: {other.name!r} shares its "
                f"memory and is read later by {reader.name!r}",
                hint=_HINT,
            )
    return path if later else []


def _later(node: fx.Node, order: Mapping[fx.Node, int], than: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if order[user] > order[than]]


def _use_instead(old: fx.Node, new: fx.Node, order: Mapping[fx.Node, int]) -> None:
    """Everything behind ``new`` reads it in the place of ``old``."""
    for user in _later(old, order, new):
        user.replace_input_with(old, new)


def _schema(node: fx.Node) -> torch.FunctionSchema | None:
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return None
    return node.target._schema  # pyright: ignore[reportPrivateUsage] - torch has no public accessor


def _writes_first_argument(node: fx.Node) -> bool:
    schema = _schema(node)
    if schema is None:
        return False
    written = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if not written:
        return False
    if len(written) > 1 or written[0].name != schema.arguments[0].name:
        if str(node.target).split(".")[1] in ("batch_norm", "instance_norm"):
            return False  # running statistics: nn.Module semantics, handled by train()/eval()
        raise CaptureError(f"{node.target} (node {node.name!r}) writes into its arguments", hint=_HINT)
    return True


def _shows(node: fx.Node) -> fx.Node | None:
    """The node whose storage ``node`` shows, if it is a view or an in-place result."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    schema = _schema(node)
    if schema is None:
        return source if node.op == "call_function" and "getitem" in str(node.target) else None
    if str(node.target) in _HIDDEN_ALIASES:
        return source
    return source if any(r.alias_info is not None for r in schema.returns) else None


def _rewrite(graph: fx.Graph, node: fx.Node, target: fx.Node, order: dict[fx.Node, int]) -> None:
    """Make ``node`` functional, and everything that reads ``target`` later read it."""
    value, out = target.meta.get("val"), node.meta.get("val")
    others = [a.meta.get("val") for a in node.all_input_nodes if a is not target]
    dtypes = {o.dtype for o in others if isinstance(o, torch.Tensor) and o.dim() > 0}
    if isinstance(value, torch.Tensor) and isinstance(out, torch.Tensor) and dtypes - {value.dtype}:
        raise CaptureError(
            f"{node.target} (node {node.name!r}) mixes dtypes {sorted(map(str, dtypes | {value.dtype}))}",
            hint=_HINT,
        )
    if node.target is aten.copy_.default:
        _copied(graph, node, target, order)
    else:
        node.target = _functional_form(node)
    _use_instead(target, node, order)


def _copied(graph: fx.Graph, node: fx.Node, target: fx.Node, order: dict[fx.Node, int]) -> None:
    """``aten.copy`` has no derivative: the copied values are repeated to the shape of the target."""
    source = node.args[1]
    assert isinstance(source, fx.Node)
    if source.meta["val"].shape != target.meta["val"].shape:
        with graph.inserting_before(node):
            repeated = graph.call_function(aten.expand.default, (source, list(target.meta["val"].shape)))
        repeated.meta = dict(node.meta)
        order[repeated] = order[node]
        source = repeated
    node.target, node.args, node.kwargs = aten.clone.default, (source,), {}


def _functional_form(node: fx.Node) -> OpOverload:
    assert isinstance(node.target, OpOverload)
    namespace, name, overload_name = str(node.target).split(".")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(packet, overload_name, None) if name.endswith("_") else None
    if not isinstance(overload, OpOverload) or overload is node.target:
        raise CaptureError(f"{node.target} (node {node.name!r}) has no functional form", hint=_HINT)
    return overload
