"""Deep copies of models and graphs, without warnings that are not for whoever asked for one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def quiet_copy(value: T, memo: dict[int, Any] | None = None) -> T:
    """``copy.deepcopy``, silent as :func:`silent_about_trees` says."""
    with silent_about_trees():
        return copy.deepcopy(value, memo)


@contextmanager
def silent_about_trees() -> Generator[None]:
    """Silence what torch warns of when the trees of an exported graph's inputs and outputs are copied.

    That copying their leaves is deprecated is torch's business; nobody else can do anything about it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
        yield
