"""The tensors in which a group is whole: what its readers see."""

from __future__ import annotations

from torch import fx

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import ChannelGroup, Tap
from hwprune.errors import CriterionError

#: Operators that treat every value by itself, in evaluation mode.
POINTWISE = frozenset(
    f"aten.{name}.default"
    for name in (
        "relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "elu",
        "selu", "celu", "leaky_relu", "prelu", "softplus", "mish", "abs", "square", "sqrt", "rsqrt", "exp",
        "log", "neg", "erf", "dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "detach",
        "clamp", "clamp_min", "clamp_max", "log_sigmoid", "logit", "round", "sign", "sin", "cos", "alias",
    )
)  # fmt: skip


def shared_taps(captured: Captured, group: ChannelGroup, *, criterion: str) -> list[Tap]:
    """The taps at which a group is done: behind activations, after every sum of a residual stage.

    A tap that only feeds another tap of the group (a convolution in front of its BatchNorm, a branch
    in front of the sum, what a depthwise convolution reads) is not among them, nor is one that holds
    the units in another arrangement than the last (queries, keys and values beside the heads'
    outputs). Each is moved behind the activation that follows it.

    Raises
    ------
    CriterionError
        The group has no tap.
    """
    if not group.taps:
        raise CriterionError(
            f"criterion {criterion} needs activations, and group {group.name} has no tensor that carries "
            "all of its channels",
            hint=f"exclude {group.name}, or use a criterion of weights such as l2",
        )
    nodes: dict[str, fx.Node] = {node.name: node for node in captured.graph.graph.nodes}
    last = group.taps[-1]
    inner = {tap.node for tap in group.taps}
    found: dict[str, Tap] = {}
    for tap in group.taps:
        node = behind_activation(nodes[tap.node])
        feeds = {user.name for user in node.users}
        if tap is not last and ((len(feeds) == 1 and feeds <= inner) or _held(tap) != _held(last)):
            continue
        found[node.name] = Tap(node.name, tap.dim, tap.runs)
    return list(found.values())


def behind_activation(node: fx.Node) -> fx.Node:
    """The end of the chain of operators that treat every value by itself, as far as nobody else reads."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if str(user.target) not in POINTWISE:
            break
        node = user
    return node


def _held(tap: Tap) -> int:
    """Runs of units in the tensor: three where queries, keys and values lie beside each other."""
    return len(tap.runs)
