"""How the values of every channel are distributed behind BatchNorms, from their parameters alone.

A BatchNorm's output is close to ``N(beta, gamma^2)`` per channel. From there the first two moments are
followed through the graph: activations change them by expectations of the normal distribution, a
residual sum adds those of its operands as if they were independent, an operand of which nothing is
known counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import fx

from hwprune.capture.captured import Captured
from hwprune.capture.tensors import named_tensors
from hwprune.importance.normal import absolute_mean, expected, relu_mean, relu_second_moment

#: Activations by name: where they, their derivatives or their absolute values have kinks, or bend so
#: sharply that a wide distribution takes it for one.
KINKS: dict[str, tuple[float, ...]] = {
    "relu6": (0.0, 6.0),
    "hardswish": (-3.0, 0.0, 3.0),
    "hardsigmoid": (-3.0, 3.0),
    "silu": (0.0,),
    "gelu": (0.0,),
    "mish": (0.0,),
    "elu": (0.0,),
    "celu": (0.0,),
    "selu": (0.0,),
    "leaky_relu": (0.0,),
    "tanh": (0.0,),
    "abs": (0.0,),
    "square": (),
    "sigmoid": (0.0,),
    "softplus": (0.0,),
}
#: What passes the values of a channel on, though perhaps not of every position: ranks of channels stay.
_PASSING = ("clone", "contiguous", "dropout", "feature_dropout", "alpha_dropout", "detach", "alias")
_POOLING = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "upsample_nearest")


@dataclass(frozen=True)
class Response:
    """Values of the channels (dimension 1) of a tensor; NaN where nothing is known.

    Attributes
    ----------
    mean, variance, absolute
        Mean, variance, and mean of the absolute value: each ``[channels]``, float64, on the CPU.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    absolute: torch.Tensor

    @staticmethod
    def normal(mean: torch.Tensor, variance: torch.Tensor) -> Response:
        """Normally distributed values."""
        return Response(mean, variance, absolute_mean(mean, variance.sqrt()))

    @property
    def root_mean_square(self) -> torch.Tensor:
        return (self.variance + self.mean**2).sqrt()

    @property
    def known(self) -> torch.Tensor:
        return ~self.mean.isnan()


Responses: TypeAlias = dict[fx.Node, Response]


def responses_of(captured: Captured) -> Responses:
    """Responses of all tensors of the graph that can be followed from BatchNorms with learned parameters."""
    parameters = named_tensors(captured.graph)
    found: Responses = {}
    with torch.no_grad():
        for node in captured.graph.graph.nodes:
            if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
                continue
            response = _response(node, found, parameters)
            if response is not None and bool(response.known.any()):
                found[node] = response
    return found


def is_batchnorm(node: fx.Node) -> bool:
    """Whether a node is a BatchNorm with a learned scale."""
    return str(node.target) == "aten.batch_norm.default" and isinstance(node.args[1], fx.Node)


def _response(node: fx.Node, found: Responses, parameters: dict[str, torch.Tensor]) -> Response | None:
    _, name, overload = f"{node.target}..".split(".")[:3]
    if is_batchnorm(node):
        return _batchnorm(node, parameters)
    operands = [found.get(each) for each in node.all_input_nodes]
    first = operands[0] if operands else None
    if name == "cat":
        return _concatenation(node, found)
    if (name, overload) == ("add", "Tensor"):
        return _sum(node, operands)
    if (name, overload) == ("mul", "Tensor"):
        # A gate of which nothing is known leaves the order of the channels as it is.
        known = [o for o in operands if o is not None and len(o.mean) == channels_of(node)]
        return known[0] if len(known) == 1 and len(operands) == 2 else None
    if first is None or len(operands) != 1:
        return None
    if name in _PASSING or name.startswith(_POOLING):
        return first
    if name == "relu":
        return _activated(first, relu_mean, relu_second_moment, relu_mean)
    if name in KINKS or name in ("hardtanh", "clamp", "clamp_min"):
        return _applied(node, name, first)
    return None


def _batchnorm(node: fx.Node, parameters: dict[str, torch.Tensor]) -> Response:
    gamma, beta = node.args[1], node.args[2]
    assert isinstance(gamma, fx.Node)
    scale = parameters[str(gamma.target)].detach().double().cpu()
    shift = torch.zeros_like(scale)
    if isinstance(beta, fx.Node):
        shift = parameters[str(beta.target)].detach().double().cpu()
    return Response.normal(shift, scale**2)


def _sum(node: fx.Node, operands: list[Response | None]) -> Response | None:
    # A number that is added, or a tensor added to itself, is no sum of independent values.
    if len(operands) != 2 or (node.kwargs.get("alpha", 1) != 1):
        return None
    count = channels_of(node)
    known = [o for o in operands if o is not None and len(o.mean) == count]
    if len(known) < 2:
        return known[0] if known else None
    one, other = known
    mean = torch.where(one.known, one.mean, 0) + torch.where(other.known, other.mean, 0)
    variance = torch.where(one.known, one.variance, 0) + torch.where(other.known, other.variance, 0)
    neither = ~(one.known | other.known)
    return Response.normal(mean.masked_fill(neither, torch.nan), variance.masked_fill(neither, torch.nan))


def _concatenation(node: fx.Node, found: Responses) -> Response | None:
    tensors, dim = node.args[0], node.args[1] if len(node.args) > 1 else 0
    if dim != 1 or not isinstance(tensors, list | tuple):
        return None
    parts: list[Response] = []
    for tensor in tensors:
        assert isinstance(tensor, fx.Node)
        unknown = torch.full((channels_of(tensor),), torch.nan, dtype=torch.float64)
        parts.append(found.get(tensor) or Response(unknown, unknown, unknown))
    return Response(
        torch.cat([p.mean for p in parts]),
        torch.cat([p.variance for p in parts]),
        torch.cat([p.absolute for p in parts]),
    )


Expectation: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _activated(before: Response, mean: Expectation, second: Expectation, absolute: Expectation) -> Response:
    std = before.variance.sqrt()
    first = mean(before.mean, std)
    variance = (second(before.mean, std) - first**2).clamp_min(0.0)
    return Response(first, variance, absolute(before.mean, std))


def _applied(node: fx.Node, name: str, before: Response) -> Response:
    """The operator itself is what is integrated."""
    arguments: tuple[Any, ...] = tuple(node.args[1:])
    kinks = KINKS.get(name)
    if kinks is None:
        bounds = (*arguments, *node.kwargs.values()) or (-1.0, 1.0)
        kinks = (0.0, *(float(b) for b in bounds if isinstance(b, int | float)))
    target: Any = node.target

    def value(x: torch.Tensor) -> torch.Tensor:
        return target(x, *arguments, **node.kwargs)

    integral = partial(expected, kinks=kinks)
    return _activated(
        before,
        lambda m, s: integral(value, m, s),
        lambda m, s: integral(lambda x: value(x) ** 2, m, s),
        lambda m, s: integral(lambda x: value(x).abs(), m, s),
    )


def channels_of(node: fx.Node) -> int:
    """Size of dimension 1 of what a node makes, 0 if it has none."""
    value = node.meta.get("val")
    return int(value.shape[1]) if isinstance(value, torch.Tensor) and value.ndim > 1 else 0
