"""``register_rule``: how a third party teaches the analysis an operator of its own."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

from hwprune.dependency.rules import RULES, Rule
from hwprune.dependency.tracker import Barrier, Dims, Parts, Tracker, label
from hwprune.errors import DependencyError, HwpruneError, UsageError

_WRITTEN = re.compile(r"(\w+)(?:::|\.)(\w+)(?:\.(\w+))?")


def register_rule(operator: Any, *, replace: bool = False) -> Callable[[Rule], Rule]:
    """Register the dependency rule of an operator; use it as a decorator.

    A rule says which channels of an operator's inputs and output are the same. It is called with
    the :class:`~hwprune.dependency.Tracker` and the node and returns one layout per dimension of
    the output: usually dimensions of ``tracker.of(argument)`` handed on, None for a dimension whose
    size never changes. What it can say besides:

    - ``tracker.tie(a, b, node)``: equal positions of two dimensions are the same channel;
    - ``tracker.keep(layout, reason)``: these channels stay, and the ledger gives the reason;
    - ``tracker.produce(node, weight, layout)`` and ``tracker.role(weight, dim, role, node)``: the
      operator makes channels with dimension ``dim`` of ``weight`` (``"producer"``), reads them
      (``"consumer"``), or has one value for each (``"channelwise"``);
    - ``raise Barrier(reason)``: this case is not understood, everything that touches it stays.

    A wrong rule cannot go unnoticed: every cut is compared with the masked original. Where the
    operator has sizes among its arguments, :func:`hwprune.register_rewrite` adapts them.

    Parameters
    ----------
    operator
        What ``torch.library.custom_op`` returned, ``torch.ops.mylib.op``, or the operator's name
        (``"mylib::op"``, ``"mylib::op.overload"``).
    replace
        Put the rule in the place of one that exists.

    Raises
    ------
    UsageError
        The operator cannot be told, or has a rule already.

    Examples
    --------
    An operator that scales every channel by a weight of its own:

    >>> @torch.library.custom_op("mylib::scale", mutates_args=())
    ... def scale(x: Tensor, weight: Tensor) -> Tensor:
    ...     return x * weight[:, None, None]
    >>> @scale.register_fake
    ... def _(x, weight):
    ...     return torch.empty_like(x)
    >>> @hwprune.register_rule(scale)
    ... def scale_rule(tracker, node):
    ...     x, weight = (tracker.of(argument) for argument in node.args)
    ...     tracker.tie(x[1], weight[0], node)
    ...     tracker.role(node.args[1], 0, "channelwise", node)
    ...     return x
    """
    name = operator_name(operator)
    if name in RULES and not replace:
        raise UsageError(
            f"operator {name!r} has a dependency rule already", hint="pass replace=True to replace it"
        )

    def register(rule: Rule) -> Rule:
        RULES[name] = _guarded(rule)
        return rule

    return register


def operator_name(operator: Any) -> str:
    """The name that graphs use: ``namespace.name.overload``.

    Raises
    ------
    UsageError
        It is no operator, or one with several overloads of which none is named.
    """
    found = getattr(operator, "_opoverload", operator)  # torch.library.custom_op
    if isinstance(found, OpOverload):
        return str(found)
    if isinstance(found, OpOverloadPacket):
        overloads = found.overloads()
        if len(overloads) > 1:
            raise UsageError(
                f"operator '{found}' has the overloads {', '.join(overloads)}", hint="name one of them"
            )
        return f"{found}.{overloads[0]}"
    parts = _WRITTEN.fullmatch(found) if isinstance(found, str) else None
    if parts is None or ("::" not in found and parts[3] is None):
        raise UsageError(
            f"{found!r} is not an operator",
            hint="write namespace::name or namespace::name.overload, or pass the operator itself",
        )
    return f"{parts[1]}.{parts[2]}.{parts[3] or 'default'}"


def _guarded(rule: Rule) -> Rule:
    """Whatever the rule raises by accident names the operator and the rule."""

    @functools.wraps(rule)
    def call(tracker: Tracker, node: fx.Node) -> Dims | Parts:
        try:
            return rule(tracker, node)
        except (Barrier, HwpruneError):
            raise
        except Exception as error:
            raise DependencyError(
                f"the dependency rule {getattr(rule, '__qualname__', rule)!r} failed at {label(node)}: "
                f"{type(error).__name__}: {error}",
                hint="correct the rule; raise Barrier(reason) for cases that it does not understand",
            ) from error

    return call
