"""Every way in which a persisted file can be wrong is told apart."""

import errno
import json
import os
from pathlib import Path

import pytest

from hwprune.artifact import atomic, atomic_directory, load_json, read_json, sha256_file, write_json
from hwprune.errors import ArtifactError

PAYLOAD = {"name": "überall", "sizes": (1, 2), "share": 0.1, "nested": {"b": None, "a": True}}


def _names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "thing.json"
    write_json(path, "thing", 2, PAYLOAD)
    return path


def test_round_trip_and_readable_layout(file: Path) -> None:
    assert read_json(file, "thing", 2) == {**PAYLOAD, "sizes": [1, 2]}
    text = file.read_text()
    assert text.index('"a"') < text.index('"b"') and "\n  " in text and text.endswith("\n")
    before = text
    write_json(file, "thing", 2, dict(reversed(PAYLOAD.items())))
    assert file.read_text() == before  # the order of the caller's keys leaves no trace


def test_integer_keys_survive_the_checksum(tmp_path: Path) -> None:
    write_json(tmp_path / "k.json", "thing", 1, {"m": {10: "x", 9: "y"}})
    assert read_json(tmp_path / "k.json", "thing", 1) == {"m": {"10": "x", "9": "y"}}


def test_every_truncation_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for end in range(len(whole) - 2):
        file.write_bytes(whole[:end])
        with pytest.raises(ArtifactError, match=r"thing\.json"):
            read_json(file, "thing", 2)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"truncated|not valid"):
        read_json(file, "thing", 2)


def test_every_changed_digit_or_letter_is_noticed(file: Path) -> None:
    whole = file.read_text()
    for i, char in enumerate(whole):
        if not char.isalnum():
            continue
        file.write_text(whole[:i] + ("7" if char != "7" else "8") + whole[i + 1 :])
        with pytest.raises(ArtifactError, match=r"thing\.json"):
            read_json(file, "thing", 2)


def test_edited_payload_is_refused_or_flagged(file: Path) -> None:
    file.write_text(file.read_text().replace("0.1", "0.2"))
    with pytest.raises(ArtifactError, match="edited"):
        read_json(file, "thing", 2)
    assert read_json(file, "thing", 2, edited="allow")["share"] == 0.2
    assert load_json(file, "thing", 2).edited


def test_reindenting_is_not_editing(file: Path) -> None:
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert not load_json(file, "thing", 2).edited


@pytest.mark.parametrize(
    ("kind", "version", "words"),
    [("other", 2, "is a thing file, not a other"), ("thing", 1, "newer than"), ("thing", 3, "older than")],
)
def test_other_kind_and_versions(file: Path, kind: str, version: int, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as error:
        read_json(file, kind, version, edited="allow")
    assert error.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated"),
        (b"[1, 2]", "not a file written by hwprune"),
        (b'{"a": 1}', "not a file written by hwprune"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"hello", "not valid JSON"),
        (b'{"format":"thing","version":2,"sha256":"","payload":{"a":NaN}}', "NaN"),
        (b'{"format":"thing","version":"2","sha256":"","payload":{}}', "whole number"),
        (b'{"format":"thing","version":2,"sha256":"","payload":[]}', "not an object"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_other_content(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        read_json(path, "thing", 2, edited="allow")


def test_missing_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json", "thing", 2)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_json(tmp_path, "thing", 2)
    with pytest.raises(ArtifactError, match="cannot be read"):
        sha256_file(tmp_path / "none")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_json_cannot_hold_is_refused_and_leaves_the_old_file(file: Path, bad: object) -> None:
    before = file.read_bytes()
    with pytest.raises(ArtifactError, match=r"thing\.json"):
        write_json(file, "thing", 2, {"x": bad})
    assert file.read_bytes() == before and _names(file.parent) == [file.name]


def test_failed_write_leaves_the_old_file_and_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left") as error:
        write_json(file, "thing", 2, {"new": 1})
    assert "disk" in str(error.value.hint)
    assert file.read_bytes() == before and _names(file.parent) == [file.name]


def test_interrupted_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_json(file, "thing", 2, {"new": 1})
    assert file.read_bytes() == before and _names(file.parent) == [file.name]


def test_new_files_follow_the_umask_and_parents_are_made(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_json(tmp_path / "a" / "b.json", "thing", 1, {})
    finally:
        os.umask(old)
    assert (tmp_path / "a" / "b.json").stat().st_mode & 0o777 == 0o644


def test_a_link_stays_a_link(file: Path) -> None:
    link = file.with_name("link.json")
    link.symlink_to(file)
    write_json(link, "thing", 2, {"new": 1})
    assert link.is_symlink() and read_json(file, "thing", 2) == {"new": 1}


def test_unwritable_place_names_path_and_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (lambda p: write_json(p, "thing", 1, {}), lambda p: _fill(p, "marker")):
        with pytest.raises(ArtifactError, match="x cannot be written") as error:
            write(tmp_path / "file" / "x")
        assert "choose an output path" in str(error.value.hint)


def test_read_only_directory(tmp_path: Path) -> None:
    user = os.geteuid()
    tmp_path.chmod(0o500)
    try:
        if user == 0:  # root may write anywhere, so be somebody else for a moment
            os.seteuid(65534)
        with pytest.raises(ArtifactError, match=r"x\.json cannot be written: Permission denied"):
            write_json(tmp_path / "x.json", "thing", 1, {})
        with pytest.raises(ArtifactError, match="cannot be written: Permission denied"):
            _fill(tmp_path / "x", "marker")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    assert _names(tmp_path) == []


def test_known_file_digest(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def _fill(path: Path, marker: str, content: str = "new", error: type[BaseException] | None = None) -> None:
    with atomic_directory(path, marker) as directory:
        (directory / "data").write_text(content)
        assert not (path / "data").exists() or (path / "data").read_text() != "new"
        if error:
            raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_directory_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        _fill(tmp_path / "out", "marker", error=error)
    assert _names(tmp_path) == []
    _fill(tmp_path / "out", "marker", "old")
    with pytest.raises(error):
        _fill(tmp_path / "out", "marker", error=error)
    assert (tmp_path / "out" / "data").read_text() == "old" and _names(tmp_path) == ["out"]


def test_a_disk_that_fills_up_half_way_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="out cannot be written: No space left on device") as caught,
        atomic_directory(tmp_path / "out", "marker") as directory,
    ):
        (directory / "data").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free some disk space" in str(caught.value.hint)
    assert _names(tmp_path) == []


def test_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    _fill(tmp_path / "out", "marker", "old")
    (tmp_path / "out" / "stale").touch()
    _fill(tmp_path / "out", "marker")
    assert _names(tmp_path / "out") == ["data", "marker"]
    assert _names(tmp_path) == ["out"]


def test_only_our_own_or_empty_directories_are_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    _fill(mine, "marker")  # empty: fine
    (mine / "marker").unlink()
    with pytest.raises(ArtifactError, match="not written by hwprune"):
        _fill(mine, "marker")
    assert (mine / "data").read_text() == "new"
    with pytest.raises(ArtifactError, match="not a directory"):
        _fill(mine / "data", "marker")


def test_failed_swap_restores_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path / "out", "marker", "old")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == tmp_path / "out" and (self / "data").read_text() == "new":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ArtifactError, match="out cannot be written"):
        _fill(tmp_path / "out", "marker")
    assert (tmp_path / "out" / "data").read_text() == "old" and _names(tmp_path) == ["out"]
