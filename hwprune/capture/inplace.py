"""In-place operators become functional ones."""

from __future__ import annotations

import torch
from torch import fx
from torch._ops import OpOverload

from hwprune.errors import CaptureError

_HINT = "write the operation out of place (y = f(x) instead of f_(x)) in the model's forward"

# These may return their input itself although their schema does not say so.
_HIDDEN_ALIASES = frozenset({"aten.dropout.default", "aten.feature_dropout.default"})


def make_functional(graph: fx.Graph) -> None:
    """Replace every in-place ATen operator by its functional form.

    Later uses of the value that was written to are rewired to the new node.

    Raises
    ------
    CaptureError
        A parameter or buffer is written to; a view is written to and the tensor it shows (or
        another view of it) is read later; the operator has no functional form, or the functional
        form would promote the dtype.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    storage: dict[fx.Node, fx.Node] = {}  # node -> the node that owns the storage it shows
    shown_by: dict[fx.Node, list[fx.Node]] = {}
    for node in list(graph.nodes):
        source = _shows(node)
        owner = storage.get(source, source) if source is not None else node
        storage[node] = owner
        shown_by.setdefault(owner, []).append(node)
        if not _writes_first_argument(node):
            continue
        target = node.args[0]
        assert isinstance(target, fx.Node)
        _refuse_shared_write(node, target, storage, shown_by, order)
        _rewrite(graph, node, target, order)
        shown_by[owner].remove(node)
        storage[node] = node  # a fresh tensor now
        shown_by[node] = [node]


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


def _refuse_shared_write(
    node: fx.Node,
    target: fx.Node,
    storage: dict[fx.Node, fx.Node],
    shown_by: dict[fx.Node, list[fx.Node]],
    order: dict[fx.Node, int],
) -> None:
    owner = storage[target]
    if owner.op == "get_attr":
        raise CaptureError(
            f"{node.target} (node {node.name!r}) writes into parameter or buffer {owner.target!r}",
            hint=_HINT,
        )
    for other in shown_by[owner]:
        if other in (node, target):
            continue
        later = [user for user in other.users if order[user] > order[node]]
        if later:
            raise CaptureError(
                f"{node.target} (node {node.name!r}) writes into a view: {other.name!r} shares its "
                f"memory and is read later by {later[0].name!r}",
                hint=_HINT,
            )


def _rewrite(graph: fx.Graph, node: fx.Node, target: fx.Node, order: dict[fx.Node, int]) -> None:
    functional = _functional_form(node)
    value, out = target.meta.get("val"), node.meta.get("val")
    others = [a.meta.get("val") for a in node.all_input_nodes if a is not target]
    dtypes = {o.dtype for o in others if isinstance(o, torch.Tensor) and o.dim() > 0}
    if isinstance(value, torch.Tensor) and isinstance(out, torch.Tensor) and dtypes - {value.dtype}:
        raise CaptureError(
            f"{node.target} (node {node.name!r}) mixes dtypes {sorted(map(str, dtypes | {value.dtype}))}",
            hint=_HINT,
        )
    node.target = functional
    for user in list(target.users):
        if user is not node and order[user] > order[node]:
            user.replace_input_with(target, node)


def _functional_form(node: fx.Node) -> OpOverload:
    assert isinstance(node.target, OpOverload)
    namespace, name, overload_name = str(node.target).split(".")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(packet, overload_name, None) if name.endswith("_") else None
    if not isinstance(overload, OpOverload) or overload is node.target:
        raise CaptureError(f"{node.target} (node {node.name!r}) has no functional form", hint=_HINT)
    return overload
