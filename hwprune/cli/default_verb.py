"""A verb that has verbs of its own: ``hwprune plan MODEL`` beside ``hwprune plan show FILE``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from hwprune.errors import UsageError


def with_verbs(verbs: typer.Typer, is_argument: Callable[[str], bool]) -> type[TyperCommand]:
    """A class for a command that hands over where its first argument names one of ``verbs``.

    Parameters
    ----------
    verbs
        At least two commands.
    is_argument
        Whether a text can be the first argument of the command itself; one that cannot, and is
        like the name of a verb, is refused with that name.
    """

    class WithVerbs(TyperCommand):
        """Looks at its first argument before it parses any."""

        def make_context(
            self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
        ) -> Any:
            group = get_command(verbs)
            assert isinstance(group, TyperGroup)
            word = args[0] if args else ""
            if word in group.commands:
                chosen = group.commands[word]
                return chosen.make_context(f"{info_name} {word}", args[1:], parent=parent, **extra)
            near = difflib.get_close_matches(word, group.commands, n=1)
            if near and not word.startswith("-") and not is_argument(word):
                raise UsageError(
                    f"'{word}' is neither a model nor something that 'hwprune {info_name}' does",
                    hint=f"did you mean 'hwprune {info_name} {near[0]}'? A model is named module:factory",
                )
            return super().make_context(info_name, args, parent=parent, **extra)

    return WithVerbs
