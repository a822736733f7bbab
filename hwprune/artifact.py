"""Versioned reading and writing of everything that is persisted.

A JSON artifact is an envelope ``{"format", "version", "sha256", "payload"}``; the checksum covers
the payload in canonical form, so reindenting a file does not count as editing it. Files and
directories appear under their final name only when they are complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

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


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text so that readers see the old file or the new one, never a part."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write bytes as :func:`atomic_write_chunks` does."""
    atomic_write_chunks(path, [data])


def atomic_write_chunks(path: str | Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write bytes through a synced temporary file beside ``path``, renamed at the end.

    Raises
    ------
    ArtifactError
        The directory cannot be written, or the disk is full.
    """
    path = _real(Path(path))
    temporary = _sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: its files are private (0600), ours follow the umask like any other file.
        with temporary.open("xb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _discard(temporary)


@contextmanager
def atomic_directory(
    path: str | Path, marker: str, *, replaces: Collection[str] | None = None
) -> Generator[Path]:
    """Fill a temporary sibling directory that becomes ``path`` when the block succeeds.

    On any failure, a keyboard interrupt included, the sibling is removed and whatever was at
    ``path`` stays as it was.

    Parameters
    ----------
    path
        The final directory. If it exists it is replaced, but only when it is empty or holds
        ``marker``, so that no directory of the user's own is ever lost.
    marker
        Name of a file that every directory of this kind holds. An empty one is made if the block
        did not write it.
    replaces
        Names of files in the old directory that are ours to replace, those that the block writes among
        them. Whatever else it holds is then taken over, so that any directory may be filled.

    Raises
    ------
    ArtifactError
        ``path`` exists and is not ours to replace, or the place cannot be written.
    """
    path = _real(Path(path))
    _check_replaceable(path, marker, replaces)
    temporary = _sibling(path)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        (temporary / marker).touch()
        _check_replaceable(path, marker, replaces)
        if replaces is not None and path.is_dir():
            _take_over(path, temporary, replaces)
        _swap_in(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _discard(temporary)


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


def _take_over(old: Path, new: Path, replaces: Collection[str]) -> None:
    """Copy what is not ours into the new directory."""
    for entry in old.iterdir():
        if entry.name in replaces:
            continue
        place = new / entry.name
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, place, symlinks=True)
        else:
            shutil.copy2(entry, place, follow_symlinks=False)


def _check_replaceable(path: Path, marker: str, replaces: Collection[str] | None) -> None:
    try:
        if not path.exists():
            return
        directory = path.is_dir()
        foreign = directory and not (path / marker).is_file() and any(path.iterdir()) and replaces is None
    except OSError as error:
        raise _unwritable(path, error) from error
    if not directory:
        raise ArtifactError(f"{path} exists and is not a directory", hint="choose another output path")
    if foreign:
        raise ArtifactError(
            f"{path} exists and was not written by hwprune (it holds no {marker}), so it is not replaced",
            hint="choose another output path, or move that directory away",
        )


def _swap_in(temporary: Path, path: Path) -> None:
    retired = _sibling(path)
    try:
        existed = path.exists()
        if existed:
            path.rename(retired)
        try:
            temporary.rename(path)
        except BaseException:
            if existed:
                retired.rename(path)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    _discard(retired)


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")


def _real(path: Path) -> Path:
    """Follow a link at ``path`` itself, so that the link stays and its destination is replaced."""
    try:
        return path.resolve() if path.is_symlink() else path.absolute()
    except (OSError, RuntimeError):  # no permission to look, or a circle of links: writing will say so
        return path.absolute()


def _discard(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        pass  # cleaning up must not hide the error that is already on its way


def _sync_directory(path: Path) -> None:
    """Make a rename durable where the system allows opening directories."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some disk space, or choose an output path on another disk"
    else:
        hint = f"choose an output path in a directory you can write to (not {path.parent})"
    return ArtifactError(f"{path} cannot be written: {error.strerror or error}", hint=hint)
