"""The network of absolute weights: linear, so that its gradients carry scores backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from hwprune.errors import CriterionError
from hwprune.importance.shared import POINTWISE

#: Operators that are linear as they stand, with weights if any nowhere in them.
_LINEAR = frozenset(
    """
    view reshape flatten unflatten permute transpose t squeeze unsqueeze expand expand_as repeat cat stack
    slice select narrow split split_with_sizes chunk unbind index_select index gather roll flip pad
    constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
    zero_pad2d mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
    upsample_bicubic2d pixel_shuffle pixel_unshuffle channel_shuffle unfold im2col col2im movedim swapaxes
    repeat_interleave tile _unsafe_view view_as to _to_copy type_as contiguous numpy_T mT
    """.split()  # noqa: SIM905
)  # fmt: skip
_SUMS = frozenset(("add", "sub", "rsub", "mul", "div", "maximum", "minimum", "lerp", "addcmul", "pow"))
_PRODUCTS = frozenset(("matmul", "bmm", "mm"))
_NORMS = frozenset(("layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm"))
_IDENTITY = frozenset(
    ("softmax", "_softmax", "log_softmax", "_safe_softmax", "cumsum", "masked_fill", "where")
)


class AdjointNetwork(fx.Interpreter):
    """Runs a captured graph as the linear network of its absolute weights, in double precision.

    Layers keep ``|W|`` and lose their biases; BatchNorm multiplies by ``|gamma| / sqrt(var + eps)``;
    activations, softmax and normalisation across channels are the identity (the last times its
    ``|gamma|``); factors that are parameters or numbers count by their size; maximum pooling becomes
    average pooling. Of a product of two activations each gets
    the score as if the other was one (a matrix product: divided by the length that is summed over),
    so that attention averages over tokens. The gradient at a tensor of what comes
    out, weighted with scores, is the score of every value of that tensor.

    Parameters
    ----------
    graph
        A captured graph.
    see
        Called with every node and its value in this network, while gradients are recorded; what it
        returns goes on instead.
    """

    def __init__(self, graph: fx.GraphModule, see: Callable[[fx.Node, Tensor], Tensor]) -> None:
        super().__init__(graph)
        self._see = see
        self._open: set[str] = set()  # nodes that depend on the input

    def run_node(self, n: fx.Node) -> Any:
        """A node's value in the linear network."""
        if n.op != "call_function":
            value = super().run_node(n)
            # The network is linear: what goes in does not matter, and zeros cannot overflow.
            starts = isinstance(value, Tensor) and value.is_floating_point()
            return torch.zeros_like(value, dtype=torch.float64).requires_grad_() if starts else value
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = self._linear(n, args, kwargs)
        return self._see(n, value) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _linear(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        name = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")
        if name.startswith("conv"):
            weight = self._weight(node, 1)
            rest = dict(kwargs) | {"bias": None}
            given = (args[0], weight, *(None if at == 0 else a for at, a in enumerate(args[2:])))
            return cast("Callable[..., Any]", node.target)(*given, **(rest if "bias" in kwargs else kwargs))
        if name == "linear":
            return F.linear(args[0], self._weight(node, 1))
        if name == "batch_norm" or name.startswith("_native_batch_norm"):
            gamma, var = self._raw(node, 1), self._raw(node, 4)
            scale = torch.ones(1, dtype=torch.float64) if gamma is None else gamma.abs()
            scale = scale if var is None else scale / (var + float(args[7])).sqrt()
            return args[0] * scale.reshape(1, -1, *[1] * (args[0].ndim - 2))
        if name in _NORMS:
            return self._normalised(node, name, args)
        if name.startswith(("max_pool", "adaptive_max_pool")):
            return _pooled(name, args)
        if name == "scaled_dot_product_attention":
            return _attention(*args[:3])
        if name in ("embedding",):
            return torch.zeros(*args[1].shape, args[0].shape[-1], dtype=torch.float64).requires_grad_()
        if name in _PRODUCTS:
            return self._product(node, args[:2])
        if name in ("addmm", "baddbmm"):  # what is added is a bias or, with attention, a mask
            return self._product(node, args[1:3])
        if name in ("mul", "div") and (factor := self._factor(node)) is not None:
            value = next(a for a, n in zip(args, node.args, strict=False) if self._fixed(n) is None)
            return value * factor if name == "mul" else value / factor
        if name in _SUMS:
            return _summed(node, [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)])
        if f"aten.{name}.default" in POINTWISE or name in _IDENTITY:
            return next(a for a in args if isinstance(a, Tensor) and a.is_floating_point())
        if str(node.target) in ("aten.view.default", "aten._unsafe_view.default"):
            # What stands in front may have been left out, and with it the memory layout that a view needs.
            return args[0].reshape(args[1])
        if name in _LINEAR or "getitem" in name or not _floats(args):
            return cast("Callable[..., Any]", node.target)(*args, **_in_double(kwargs))
        return _unknown(node, args)

    def _factor(self, node: fx.Node) -> Tensor | float | None:
        """The size of what a product multiplies by, where that is fixed."""
        fixed = [self._fixed(argument) for argument in node.args[:2]]
        known = [value for value in fixed if value is not None]
        if len(known) != 1:
            return None
        return known[0].abs() if isinstance(known[0], Tensor) else abs(known[0])

    def _fixed(self, argument: object) -> Tensor | float | None:
        """The real value of a number, a parameter, or what is made of parameters alone."""
        if isinstance(argument, int | float):
            return float(argument)
        if not isinstance(argument, fx.Node):
            return None
        if argument.op == "get_attr":
            value = self.fetch_attr(str(argument.target))
            return value.detach().double() if isinstance(value, Tensor) else None
        inputs = argument.all_input_nodes
        if argument.op != "call_function" or not inputs or argument.name in self._open:
            return None
        values = {n: self._fixed(n) for n in inputs}
        if any(value is None for value in values.values()):
            self._open.add(argument.name)
            return None
        args, kwargs = fx.map_arg((argument.args, argument.kwargs), lambda n: values[n])
        found: Any = cast("Callable[..., Any]", argument.target)(*args, **_in_double(kwargs))
        return found if isinstance(found, Tensor) else None

    def _raw(self, node: fx.Node, at: int) -> Tensor | None:
        """A parameter of a node; None where it has none."""
        argument = node.args[at] if len(node.args) > at else None
        if not isinstance(argument, fx.Node):
            return None
        value = self._fixed(argument)
        if not isinstance(value, Tensor):
            raise CriterionError(
                f"criterion nisp needs the weights of {node.name}, which depend on the input",
                hint="use another criterion",
            )
        return value

    def _weight(self, node: fx.Node, at: int) -> Tensor:
        value = self._raw(node, at)
        assert value is not None
        return value.abs()

    def _normalised(self, node: fx.Node, name: str, args: tuple[Any, ...]) -> Tensor:
        gamma = self._raw(node, 1 if name == "instance_norm" else 2)
        if gamma is None:
            return args[0]
        if name in ("group_norm", "instance_norm"):
            return args[0] * gamma.abs().reshape(1, -1, *[1] * (args[0].ndim - 2))
        return args[0] * gamma.abs()

    def _product(self, node: fx.Node, operands: tuple[Any, ...]) -> Tensor:
        first, second = operands
        nodes = node.args[:2] if len(node.args) == 2 else node.args[1:3]
        # A factor that is fixed is a weight.
        left, right = self._fixed(nodes[0]), self._fixed(nodes[1])
        if isinstance(right, Tensor):
            return torch.matmul(first, right.abs())
        if isinstance(left, Tensor):
            return torch.matmul(left.abs(), second)
        length = max(1, int(first.shape[-1]))
        ones = (torch.ones_like(first.detach()), torch.ones_like(second.detach()))
        return (torch.matmul(first, ones[1]) + torch.matmul(ones[0], second)) / length


def _pooled(name: str, args: tuple[Any, ...]) -> Any:
    rank = int(name[name.index("pool") + 4])
    average: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[rank]
    adaptive: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[rank]
    if name.startswith("adaptive"):
        value = adaptive(args[0], args[1])
    else:
        size, stride, padding, dilation, ceil = (*args[1:], *(None,) * 5)[:5]
        if dilation not in (None, 1) and any(n != 1 for n in cast("list[int]", dilation)):
            raise CriterionError(
                "criterion nisp has no rule for dilated pooling", hint="use another criterion"
            )
        value = average(args[0], size, stride or size, padding or 0, bool(ceil))
    return (value, None) if "indices" in name else value


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every token looks at all alike; queries and keys get the score through the weights of tokens."""
    groups = query.shape[-3] // key.shape[-3] if query.ndim > 2 and key.ndim > 2 else 1
    if groups > 1:
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    out = value.mean(-2, keepdim=True) + query.mean(-1, keepdim=True) + key.mean((-2, -1), keepdim=True)
    return out.expand(*out.shape[:-2], query.shape[-2], value.shape[-1])


def _summed(node: fx.Node, operands: list[Tensor]) -> Any:
    floats = [a for a in operands if a.is_floating_point()]
    if not floats:
        raise _no_rule(node)
    total = floats[0]
    for other in floats[1:]:
        total = total + other
    return total


def _floats(args: tuple[Any, ...]) -> list[Tensor]:
    flat = [b for a in args for b in (cast("list[Any]", a) if isinstance(a, list | tuple) else [a])]
    return [a for a in flat if isinstance(a, Tensor) and a.is_floating_point()]


def _in_double(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: torch.float64 if isinstance(v, torch.dtype) and v.is_floating_point else v
        for k, v in kwargs.items()
    }


def _unknown(node: fx.Node, args: tuple[Any, ...]) -> Tensor:
    """What keeps its shape is taken for an activation."""
    value = node.meta.get("val")
    for a in _floats(args):
        if isinstance(value, Tensor) and a.shape == value.shape:
            return a
    raise _no_rule(node)


def _no_rule(node: fx.Node) -> CriterionError:
    return CriterionError(
        f"criterion nisp has no rule to carry scores back through {node.target} (node {node.name!r})",
        hint="use another criterion",
    )
