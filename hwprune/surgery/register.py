"""``register_rewrite``: constants among the arguments of a third party's operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwprune.dependency.register import operator_name
from hwprune.errors import UsageError
from hwprune.surgery.constants import REWRITES, Rewrite


def register_rewrite(operator: Any, *, replace: bool = False) -> Callable[[Rewrite], Rewrite]:
    """Register the function that adapts sizes among an operator's arguments; use it as a decorator.

    The function is called with every node of that operator in the graph that is being cut. It
    changes ``node.args``; :func:`hwprune.surgery.constants.new_sizes` gives the shape that any
    node will have. Needed only where sizes are constants of the call.

    Parameters
    ----------
    operator
        As in :func:`hwprune.register_rule`.
    replace
        Put the function in the place of one that exists.

    Raises
    ------
    UsageError
        The operator cannot be told, or has such a function already.

    Examples
    --------
    >>> @hwprune.register_rewrite("mylib::split_heads")
    ... def split_heads(node):
    ...     node.update_arg(1, new_sizes(node)[1])
    """
    name = operator_name(operator)
    if name in REWRITES and not replace:
        raise UsageError(f"operator {name!r} has a rewrite already", hint="pass replace=True to replace it")

    def register(function: Rewrite) -> Rewrite:
        REWRITES[name] = function
        return function

    return register
