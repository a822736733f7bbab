"""What has been measured so far, safe on disk after every kernel."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Kinds of records, by what they say.
SESSION, KERNEL, FAILURE, VERDICT, SENTINEL, FASTER, NETWORK, END = (
    "session",
    "kernel",
    "failure",
    "verdict",
    "sentinel",
    "faster",
    "network",
    "end",
)


@dataclass
class State:
    """What a journal's records amount to.

    ``kernels`` maps digests to the last record of each, with ``disturbed`` (a reason, or None) and
    ``judged``. ``reference`` is what the sentinel takes, in nanoseconds.
    """

    kernels: dict[str, dict[str, Any]] = field(default_factory=lambda: {})
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
            self.kernels[record["digest"]] = dict(record, disturbed=None, judged=what == FAILURE)
        elif what == NETWORK:
            self.networks[record["name"]] = dict(record)
        elif what == SENTINEL:
            self.sentinels.append(dict(record))
            self.reference = record["reference"]
        elif what == VERDICT:
            for digest in record["digests"]:
                self.kernels[digest].update(judged=True, disturbed=record["why"])
        elif what == FASTER:
            spared = set(record["spared"])
            for digest, kernel in self.kernels.items():
                if kernel["what"] == KERNEL and digest not in spared and kernel["disturbed"] is None:
                    kernel["disturbed"] = record["why"]

    def unjudged(self) -> list[str]:
        """Kernels that were timed when the script was stopped, before anybody looked at the sentinel."""
        return [digest for digest, kernel in self.kernels.items() if not kernel["judged"]]

    def good(self, digest: str) -> bool:
        """Whether a kernel need not be timed again."""
        kernel = self.kernels.get(digest)
        return kernel is not None and kernel["what"] == KERNEL and kernel["disturbed"] is None

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
