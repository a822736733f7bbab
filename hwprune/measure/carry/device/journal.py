"""What has been measured so far, safe on disk after every kernel."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Kinds of records, by what they say.
SESSION, KERNEL, FAILURE, VERDICT = "session", "kernel", "failure", "verdict"
SENTINEL, FASTER, NETWORK, END = "sentinel", "faster", "network", "end"
#: Why a pass counts as disturbed after which nobody looked at the sentinel any more.
UNJUDGED = "the run was stopped before it was known whether the machine was disturbed"


@dataclass
class KernelState:
    """One kernel's timings, a dictionary (:class:`hwprune.measure.sampling.Sampled`) for each pass.

    ``parts`` are good, ``spoiled`` disturbed for the reason ``why``, ``pending`` not judged yet.
    ``failure`` says why it could not be timed when it was tried last; ``at`` is when that was (UTC).
    """

    digest: str
    at: str = ""
    parts: list[dict[str, Any]] = field(default_factory=lambda: [])
    spoiled: list[dict[str, Any]] = field(default_factory=lambda: [])
    pending: list[dict[str, Any]] = field(default_factory=lambda: [])
    why: str | None = None
    failure: str | None = None

    def judge(self, why: str | None) -> None:
        """A verdict on what is pending."""
        if why is None:
            self.parts += self.pending
        else:
            self.spoiled += self.pending
            self.why = why
        self.pending = []

    def spoil(self, why: str) -> None:
        """Nothing that was taken so far is good, but for what is pending."""
        if self.parts:
            self.spoiled += self.parts
            self.parts, self.why = [], why

    def to_dict(self) -> dict[str, Any]:
        """For the results; what is pending counts as spoiled there."""
        data = dict(vars(self))
        pending = data.pop("pending")
        return dict(data, spoiled=self.spoiled + pending, why=UNJUDGED if pending else self.why)


@dataclass
class State:
    """What a journal's records amount to: kernels by digest, networks by name.

    ``reference`` is what the sentinel takes, in nanoseconds.
    """

    kernels: dict[str, KernelState] = field(default_factory=lambda: {})
    networks: dict[str, dict[str, Any]] = field(default_factory=lambda: {})
    sentinels: list[dict[str, Any]] = field(default_factory=lambda: [])
    sessions: list[dict[str, Any]] = field(default_factory=lambda: [])
    reference: float = 0.0

    def apply(self, record: dict[str, Any]) -> None:
        """Take one record into account."""
        what = record["what"]
        if what == SESSION:
            self.sessions.append(dict(record))
        elif what == END:
            self.sessions[-1]["conditions"] = record["conditions"]
        elif what in (KERNEL, FAILURE):
            kernel = self.kernels.setdefault(record["digest"], KernelState(record["digest"]))
            kernel.at, kernel.failure = record["at"], record.get("why")
            if what == KERNEL:
                kernel.pending.append(record["sampled"])
        elif what == NETWORK:
            self.networks[record["name"]] = dict(record)
        elif what == SENTINEL:
            self.sentinels.append(dict(record))
            self.reference = record["reference"]
        elif what == VERDICT:
            for digest in record["digests"]:
                self.kernels[digest].judge(record["why"])
        elif what == FASTER:
            for kernel in self.kernels.values():
                kernel.spoil(record["why"])

    def kernel(self, digest: str) -> KernelState:
        """What is known of a kernel; nothing, perhaps."""
        return self.kernels.get(digest) or KernelState(digest)

    def unjudged(self) -> list[str]:
        """Kernels that were timed when the script was stopped, before anybody looked at the sentinel."""
        return [digest for digest, kernel in self.kernels.items() if kernel.pending]

    def good_network(self, name: str) -> bool:
        """Whether a network need not be timed again."""
        network = self.networks.get(name)
        return network is not None and network["failure"] is None and network["disturbed"] is None


class Journal:
    """A file of records, one a line with a checksum; a torn last line is forgotten.

    Parameters
    ----------
    path
        Made if it is missing.
    bundle
        Hash of the manifest: a journal of another bundle is refused.

    Raises
    ------
    ValueError
        The file is of another bundle, or damaged in the middle.
    """

    def __init__(self, path: Path, bundle: str) -> None:
        self.state = State()
        data = path.read_bytes() if path.exists() else b""
        whole = 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            record = _parse(line)
            if record is None:
                if whole + len(line) < len(data):
                    raise ValueError(f"{path} line {number} is damaged: delete the file and start again")
                break
            if record["what"] == SESSION and record["bundle"] != bundle:
                raise ValueError(f"{path} belongs to another bundle: delete it and start again")
            self.state.apply(record)
            whole += len(line)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def add(self, what: str, **content: Any) -> None:
        """Write a record; it is on disk when this returns."""
        record = dict(content, what=what)
        payload = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(payload), payload))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.state.apply(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _parse(line: bytes) -> dict[str, Any] | None:
    payload = line[9:-1]
    if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(payload):
        return None
    return json.loads(payload)
