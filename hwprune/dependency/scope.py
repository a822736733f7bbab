"""Which layers may be pruned: patterns over layer names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from hwprune.errors import UsageError


class Scope:
    """``include`` and ``exclude`` patterns; empty ``include`` stands for everything."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self.include = (include,) if isinstance(include, str) else tuple(include)
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)

    def check(self, layers: Iterable[str]) -> None:
        """Raise UsageError for a pattern that matches no layer."""
        names = list(dict.fromkeys(layers))
        for option, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in patterns:
                if not any(matches(name, pattern) for name in names):
                    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
                    raise UsageError(
                        f"{option} pattern {pattern!r} matches no layer",
                        hint=f"the nearest layer names are {', '.join(near) or '(the model has none)'}",
                    )

    def refuses(self, layers: Sequence[str]) -> str | None:
        """Why a group with these producers may not be pruned, None if it may."""
        for pattern in self.exclude:
            hit = next((name for name in layers if matches(name, pattern)), None)
            if hit is not None:
                shared = "" if hit == layers[0] else f" through {hit}"
                return f"excluded by pattern {pattern!r}{shared}"
        if self.include and not any(matches(n, p) for n in layers for p in self.include):
            return "not included by any pattern"
        return None


def matches(name: str, pattern: str) -> bool:
    """Whether a layer's name fits a pattern or lies below the module path that it is."""
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
