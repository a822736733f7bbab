"""JSON files that say what they are, of which version, and whether anybody changed them.

The envelope is ``{"format", "version", "sha256", "payload"}``; the checksum covers the payload in
canonical form, so reindenting a file does not count as editing it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from hwprune.artifact.atomic import atomic_write_text
from hwprune.errors import ArtifactError

_ENVELOPE = {"format", "version", "sha256", "payload"}


@dataclass(frozen=True)
class Loaded:
    """A payload, and whether it was changed after hwprune wrote it."""

    payload: dict[str, Any]
    edited: bool


def write_json(
    path: str | Path,
    kind: str,
    version: int,
    payload: Mapping[str, Any],
    *,
    layout: Callable[[Mapping[str, Any]], str] | None = None,
) -> None:
    """Write a JSON artifact atomically.

    Parameters
    ----------
    path
        Missing parent directories are made.
    kind
        What the file is, for example ``"hwprune.plan"``; a reader must ask for the same.
    version
        Version of the payload's layout.
    payload
        JSON values only; keys are strings, numbers are finite.
    layout
        Writes the envelope as JSON text in a form of its own. Default: sorted, one value per line.

    Raises
    ------
    ArtifactError
        The place cannot be written, or the payload holds something that JSON cannot.
    """
    try:
        digest = hashlib.sha256(_canonical(payload)).hexdigest()
        envelope = {"format": kind, "version": version, "sha256": digest, "payload": payload}
        text = (layout or _sorted)(envelope)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: the {kind} cannot be written as JSON: {error}",
            hint="all numbers must be finite and all keys strings",
        ) from error
    atomic_write_text(path, text + "\n")


def read_json(
    path: str | Path,
    kind: str,
    version: int,
    *,
    edited: Literal["refuse", "allow"] = "refuse",
    oldest: int | None = None,
) -> dict[str, Any]:
    """Read the payload of a JSON artifact.

    Parameters
    ----------
    oldest
        Versions from this one to ``version`` are read; the caller knows what the older ones mean.
        Default: only ``version``.
    edited
        ``"allow"`` accepts a payload whose checksum does not match, for files that people may edit
        (the caller must then verify the content again).

    Raises
    ------
    ArtifactError
        Missing, unreadable, truncated, not an artifact, of another kind or version, or edited.
    """
    loaded = load_json(path, kind, version, oldest=oldest)
    if loaded.edited and edited == "refuse":
        raise ArtifactError(
            f"{path} was edited or damaged after it was written (its checksum does not match)",
            hint="restore the original file, or make it again with the command that wrote it",
        )
    return loaded.payload


def load_json(path: str | Path, kind: str, version: int, *, oldest: int | None = None) -> Loaded:
    """Like :func:`read_json` with ``edited="allow"``, and says whether the payload was edited."""
    text = _read_text(Path(path), kind)
    try:
        data: object = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        truncated = isinstance(error, json.JSONDecodeError) and error.pos >= len(text.rstrip())
        raise ArtifactError(
            f"{path} is {'truncated' if truncated or not text.strip() else 'not valid JSON'}: {error}",
            hint="restore the original file, or make it again with the command that wrote it",
        ) from error
    if not isinstance(data, dict) or set(cast("dict[str, Any]", data)) != _ENVELOPE:
        raise ArtifactError(
            f"{path} is not a file written by hwprune (its keys are not {', '.join(sorted(_ENVELOPE))})",
            hint=f"give the path of a {kind} file",
        )
    envelope = cast("dict[str, Any]", data)
    if envelope["format"] != kind:
        raise ArtifactError(
            f"{path} is a {envelope['format']} file, not a {kind} file",
            hint=f"give the path of a {kind} file",
        )
    _check_version(path, kind, version, envelope["version"], version if oldest is None else oldest)
    payload = envelope["payload"]
    if not isinstance(payload, dict):
        raise ArtifactError(f"{path}: the payload is not an object", hint="restore the original file")
    payload = cast("dict[str, Any]", payload)
    return Loaded(payload, hashlib.sha256(_canonical(payload)).hexdigest() != envelope["sha256"])


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises
    ------
    ArtifactError
        The file is missing or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error


def _canonical(payload: Mapping[str, Any]) -> bytes:
    # Through JSON and back first: tuples become lists and integer keys strings, as a reader sees them.
    seen = json.loads(json.dumps(payload, allow_nan=False))
    return json.dumps(seen, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("utf-8")


def _sorted(envelope: Mapping[str, Any]) -> str:
    return json.dumps(envelope, indent=2, sort_keys=True, allow_nan=False)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _read_text(path: Path, kind: str) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist", hint=f"give the path of a {kind} file") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path} is not valid JSON: it is not UTF-8 text", hint=f"give the path of a {kind} file"
        ) from error
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror}", hint=f"give the path of a readable {kind} file"
        ) from error


def _check_version(path: str | Path, kind: str, wanted: int, found: object, oldest: int) -> None:
    if isinstance(found, bool) or not isinstance(found, int):
        raise ArtifactError(f"{path}: 'version' is not a whole number", hint="restore the original file")
    if found > wanted:
        raise ArtifactError(
            f"{path} is {kind} version {found}, newer than version {wanted}, which this hwprune reads",
            hint="upgrade hwprune, or make the file again with this version",
        )
    if found < oldest:
        raise ArtifactError(
            f"{path} is {kind} version {found}, older than version {oldest}, which this hwprune still reads",
            hint="make the file again with this version of hwprune",
        )
