"""Files and directories that appear under their final name only when they are complete."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from hwprune.errors import ArtifactError


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
