"""Options as people give them, checked by their pydantic model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hwprune.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)


def validated(kind: type[Model], values: Mapping[str, Any], what: str) -> Model:
    """Options of this kind; numbers may be given as texts, as on a command line.

    Parameters
    ----------
    kind
        A model with ``extra="forbid"``.
    values
        Field to value.
    what
        What the options are those of, such as ``"the repair"``.

    Raises
    ------
    UsageError
        There is no such option, or its value is out of range.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        # A check of several fields at once has no place of its own, and says itself what is wrong.
        found = f"option '{place}' of {what} is {first['input']!r}" if place else f"options of {what}"
        raise UsageError(
            f"{found}: {first['msg'].removeprefix('Value error, ').lower()}",
            hint=f"the options are {', '.join(kind.model_fields)}",
        ) from error
