"""Importance criteria: what one is, and how it is found by name."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, TypeVar

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.importance.allocation import Allocation
from hwprune.importance.batches import Batch

DataNeed = Literal["none", "unlabelled", "labelled"]
Comparability = Literal["global", "normalised", "within_group"]
#: Whose method it is: what the authors publish; their method in a form of ours (published for single
#: weights, ours for whole units, say); our reading of an abstract, where nothing more could be read; or
#: nobody's (random order).
Origin = Literal["authors", "adapted", "abstract", "none"]
#: A loss: ``(outputs, targets) -> scalar tensor``.
Loss = Callable[[Any, Any], torch.Tensor]


class Criterion(ABC):
    """Gives every unit of every group a score; a higher score means: keep.

    A criterion is registered with :func:`register`; its constructor takes its parameters by name.

    Attributes
    ----------
    name
        Name in the registry.
    data_need
        ``"none"``, ``"unlabelled"`` or ``"labelled"``.
    comparability
        What scores of different groups mean beside each other: ``"global"``, one scale for all;
        ``"normalised"``, one scale once each group is divided by its mean; ``"within_group"``,
        ranks inside a group only.
    paper
        Where it comes from: authors, title, venue and year.
    formula
        The score of a unit with the default parameters, on one line of plain text.
    origin
        ``"authors"``: as published, in a paper or in the authors' code; ``"adapted"``: published in
        another form, for single weights instead of whole units, say; ``"abstract"``: our reading of the
        abstract; ``"none"``: no paper stands behind it.
    cost
        What scoring takes, in forward and backward passes and what is held in memory.
    written
        The name and the parameters that it was made with; empty if there were none.
    """

    name: ClassVar[str]
    data_need: ClassVar[DataNeed]
    comparability: ClassVar[Comparability]
    paper: ClassVar[str]
    formula: ClassVar[str] = ""
    origin: ClassVar[Origin] = "none"
    cost: ClassVar[str] = ""
    written: str = ""

    @property
    def label(self) -> str:
        """The name and the parameters it was made with, as :func:`get` reads them.

        It tells criteria of one class apart where scores are kept.
        """
        return self.written or self.name

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in cls.__dict__:
            cls.__init__ = _noted(cls.__init__)

    @property
    def gives_widths(self) -> bool:
        """Whether it was asked to say something of widths, too."""
        return False

    @property
    def allocation(self) -> Allocation | None:
        """What the last :meth:`score` says of widths, beside which units are kept; mostly nothing."""
        return None

    @abstractmethod
    def score(
        self, captured: Captured, deps: Dependencies, data: Iterable[Batch] | None, *, loss: Loss | None
    ) -> dict[str, torch.Tensor]:
        """One vector ``[size]`` per group, by group name.

        ``data`` can be iterated once; it is there whenever ``data_need`` is not ``"none"``. The
        captured model must be left as it was.
        """


_registry: dict[str, type[Criterion]] = {}
C = TypeVar("C", bound=type[Criterion])


def register(criterion: C) -> C:
    """Class decorator: make a criterion known under its ``name``.

    Raises
    ------
    UsageError
        The name is taken by another class.
    """
    name = criterion.name
    known = _registry.get(name)
    if known is not None and known.__qualname__ != criterion.__qualname__:
        raise UsageError(f"a criterion named {name!r} is already registered", hint="choose another name")
    _registry[name] = criterion
    return criterion


def available(*, data_need: DataNeed | None = None) -> tuple[str, ...]:
    """Names of the registered criteria, sorted; optionally those with this need of data."""
    return tuple(sorted(n for n, c in _registry.items() if data_need in (None, c.data_need)))


def find(name: str) -> type[Criterion]:
    """The class of the criterion of this name.

    Raises
    ------
    UsageError
        No criterion has this name.
    """
    found = _registry.get(name)
    if found is None:
        near = difflib.get_close_matches(name, _registry, n=2)
        asked = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"unknown criterion {name!r}", hint=f"{asked}there are {', '.join(available())}")
    return found


def get(name: str, **params: Any) -> Criterion:
    """Make the criterion of this name.

    Parameters
    ----------
    name
        A name from :func:`available`; parameters may follow it, as in ``"taylor2019:form=gate"`` or
        ``"l1:variant=greedy:keep=0.25"``, which is how they are given on the command line. Their values
        are read as JSON, and as text where they are not JSON.
    params
        Parameters of its constructor.

    Raises
    ------
    UsageError
        No criterion has this name, it has no such parameter, one is given twice or has a wrong type.
    """
    name, *written = name.split(":")
    found = find(name)
    for part in written:
        key, equals, text = part.partition("=")
        if not equals or not key or key in params:
            raise UsageError(
                f"{part!r} behind the criterion {name!r} is "
                + ("given twice" if key in params else "no parameter"),
                hint=f"write {name}:parameter=value",
            )
        params[key] = _value(text)
    known = [key for key in inspect.signature(found).parameters if key not in ("args", "kwargs")]
    unknown = [key for key in params if key not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise UsageError(f"criterion {name!r} has no parameter {', '.join(unknown)}", hint=takes)
    try:
        return found(**params)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in params.items())
        raise UsageError(
            f"criterion {name!r} does not take {given}: {error}",
            hint="hwprune inspect --criteria shows defaults",
        ) from error


def _noted(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor after which the criterion knows its parameters."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def noting(self: Criterion, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        _, *given = signature.bind(self, *args, **kwargs).arguments.items()
        self.written = ":".join([self.name, *(f"{key}={_written(value)}" for key, value in given)])

    return noting


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _written(value: Any) -> str:
    """What :func:`_value` reads again, where there is such a text."""
    if isinstance(value, str) and _value(value) == value:
        return value
    try:
        return json.dumps(value, separators=(",", ":"))
    except TypeError:
        return repr(value)
