"""Which of its possible forms a kernel is built in, and the file that remembers searched choices.

The rule that keeps *the latency that is measured is the latency that is shipped* true:

* a kernel's code follows from its spec, the pipeline hash and its :class:`Choice`; no choice means
  the deterministic default;
* searched choices lie in ``choices.json`` in the directory of the latency table that they belong
  to, so one pipeline on one device has one set of them;
* every row of that table says with which choice it was timed (:attr:`Row.choice`). Profiler,
  end-to-end timing and compiler all take the choice from ``choices.json``, and a row timed with
  another choice than the one recorded there is *stale*: reading the table leaves it out, and the
  profiler measures that kernel again.

A kernel that was tuned (:mod:`hwprune.measure.tune`) has the choice ``tuned``, whose schedule is a
file of its own (:mod:`hwprune.latency.traces`) that ``choices.json`` names by content.

So a search may change its mind about some kernels without throwing away the rows of the others,
and rows of different choices are never added up. A module that is compiled without the recorded
choices (``hwprune compile --no-search``) says so in its manifest, kernel by kernel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hwprune.artifact import read_json, write_json
from hwprune.errors import ArtifactError, TableError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.traces import load_trace, save_trace, trace_id

CHOICES_NAME = "choices.json"
CHOICES_KIND = "hwprune-choices"
CHOICES_VERSION = 1
#: What a row says that was timed with the deterministic default.
DEFAULT = "default"


@dataclass(frozen=True)
class Choice:
    """One way to build a kernel: the algorithm and the numbers of its tiling, sorted by name.

    What numbers an algorithm has is for the code generator to say
    (:func:`hwprune.compile.choice.choices_for`). ``trace`` is the schedule of a ``tuned`` kernel
    (:mod:`hwprune.compile.tuned`), empty for all others.
    """

    rule: str
    numbers: tuple[tuple[str, int], ...] = ()
    trace: str = field(default="", repr=False)

    @staticmethod
    def of(rule: str, **numbers: int) -> Choice:
        """A choice from keyword numbers."""
        return Choice(rule, tuple(sorted(numbers.items())))

    def number(self, name: str) -> int:
        """The number called ``name``."""
        return dict(self.numbers)[name]

    def label(self) -> str:
        """For people and for rows: ``direct block_tile=4 cols=4 rows=1``, ``tuned 1f0c5d2e9a77``."""
        named = [trace_id(self.trace)] if self.trace else []
        return " ".join([self.rule, *(f"{name}={value}" for name, value in self.numbers), *named])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        traced = {"trace": self.trace} if self.trace else {}
        return {"rule": self.rule, "numbers": dict(self.numbers), **traced}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Choice:
        """Inverse of :meth:`to_dict`."""
        numbers = sorted((str(k), int(v)) for k, v in data["numbers"].items())
        return Choice(str(data["rule"]), tuple(numbers), str(data.get("trace", "")))


def choice_label(choice: Choice | None) -> str:
    """How a table names a choice; no choice is the default."""
    return DEFAULT if choice is None else choice.label()


@dataclass(frozen=True)
class Searched:
    """What a search found for one kernel.

    ``choice`` is None where nothing beat the default. ``medians_ns`` holds the measured median of
    each candidate by its label, as far as it was timed; ``error`` is the winner's largest difference
    from the default's output, relative to the largest output.
    """

    label: str
    choice: Choice | None
    medians_ns: Mapping[str, float] = field(default_factory=dict[str, float])
    error: float = 0.0
    measured_at: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "label": self.label,
            "choice": self.choice.to_dict() if self.choice else None,
            "medians_ns": dict(self.medians_ns),
            "error": self.error,
            "measured_at": self.measured_at,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Searched:
        """Inverse of :meth:`to_dict`."""
        chosen = data["choice"]
        return Searched(
            str(data["label"]),
            Choice.from_dict(chosen) if chosen is not None else None,
            {str(k): float(v) for k, v in data["medians_ns"].items()},
            float(data["error"]),
            str(data["measured_at"]),
        )


class ChoiceTable:
    """Searched kernels by the digest of their spec. An empty table means: defaults everywhere.

    Parameters
    ----------
    entries
        Results by digest.
    provenance
        Who searched, on what: pipeline, device, versions. Kept as it is.
    """

    def __init__(
        self, entries: Mapping[str, Searched] | None = None, provenance: Mapping[str, Any] | None = None
    ) -> None:
        self._entries = dict(entries or {})
        self.provenance: dict[str, Any] = dict(provenance or {})

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, Searched]]:
        return iter(sorted(self._entries.items()))

    def __contains__(self, spec: KernelSpec) -> bool:
        return spec.digest() in self._entries

    def get(self, spec: KernelSpec) -> Choice | None:
        """The choice of a kernel; None, the default, also where nobody has searched."""
        found = self._entries.get(spec.digest())
        return found.choice if found else None

    def label(self, digest: str) -> str:
        """What a row of this table must say to be current."""
        found = self._entries.get(digest)
        return choice_label(found.choice if found else None)

    def entry(self, spec: KernelSpec) -> Searched | None:
        """All that a search found out about a kernel."""
        return self._entries.get(spec.digest())

    def put(self, spec: KernelSpec, found: Searched) -> None:
        """Record a result."""
        self._entries[spec.digest()] = found

    def without(self, rule: str) -> ChoiceTable:
        """The table with kernels of an algorithm back at their default."""
        kept = {d: e for d, e in self._entries.items() if e.choice is None or e.choice.rule != rule}
        return ChoiceTable(kept, self.provenance)

    def digest(self) -> str:
        """Twelve hex digits over the choices (not over their timings)."""
        chosen = {d: e.choice.label() for d, e in self._entries.items() if e.choice}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]

    def save(self, directory: Path) -> None:
        """Write ``choices.json`` of a table's directory, atomically, after the traces it names."""
        kernels: dict[str, dict[str, Any]] = {}
        for digest, entry in self:
            kernels[digest] = entry.to_dict()
            if entry.choice is not None and entry.choice.trace:
                kernels[digest]["choice"]["trace"] = save_trace(directory, entry.choice.trace)
        payload = {"provenance": self.provenance, "kernels": kernels}
        write_json(Path(directory) / CHOICES_NAME, CHOICES_KIND, CHOICES_VERSION, payload)

    @staticmethod
    def load(directory: Path) -> ChoiceTable:
        """The choices of a table's directory; an empty table where nobody has searched.

        Raises
        ------
        TableError
            ``choices.json`` is damaged, edited or of another version, or a trace that it names is
            missing or changed.
        """
        path = Path(directory) / CHOICES_NAME
        if not path.is_file():
            return ChoiceTable()
        hint = f"delete {CHOICES_NAME} and search again"
        try:
            payload = read_json(path, CHOICES_KIND, CHOICES_VERSION)
            kernels = cast("dict[str, dict[str, Any]]", payload["kernels"])
            for data in kernels.values():
                if data["choice"] is not None and "trace" in data["choice"]:
                    data["choice"]["trace"] = load_trace(directory, str(data["choice"]["trace"]))
            entries = {digest: Searched.from_dict(data) for digest, data in kernels.items()}
            return ChoiceTable(entries, payload["provenance"])
        except ArtifactError as error:
            raise TableError(error.message, hint=hint) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TableError(f"{path} is malformed: {error}", hint=hint) from error
