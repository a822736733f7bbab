"""The table of dependency rules: one small function per ATen operator.

A rule takes the :class:`~hwprune.dependency.tracker.Tracker` and the node, ties what is tied, and
returns the layout of every dimension of the output (a :class:`Parts` of them where the operator
makes several tensors, which ``"getitem"`` picks from). It raises
:class:`~hwprune.dependency.tracker.Barrier` for a case that it does not understand. Operators
that are not in the table are barriers: their channels are kept and the ledger names them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TypeAlias

from torch import fx

from hwprune.dependency.tracker import Dims, Parts, Tracker

Rule: TypeAlias = Callable[[Tracker, fx.Node], Dims | Parts]

RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of ATen operators.

    Parameters
    ----------
    operators
        Names without the namespace ``aten`` and without ``.default``: ``"relu"``,
        ``"add.Tensor"``; operators of another namespace in full: ``"mylib.op.default"``.
    """

    def register(function: Rule) -> Rule:
        for name in operators:
            RULES[_full(name)] = function
        return function

    return register


def find_rule(node: fx.Node) -> Rule | None:
    """The rule of a node's operator, None if there is none."""
    return RULES.get(str(node.target)) if node.op == "call_function" else None


def _full(name: str) -> str:
    parts = name.split(".")
    if name == "getitem":
        return str(operator.getitem)
    if len(parts) == 3:
        return name
    return f"aten.{name}" if len(parts) == 2 else f"aten.{name}.default"
