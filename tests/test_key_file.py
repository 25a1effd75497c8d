"""The file of API keys: read again when it changes, and never seen half-written."""

from __future__ import annotations

import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from camserve import key_file
from camserve.api_keys import Scope, new_key, render_keys
from camserve.key_file import KeyFile, read_keys, rewriting


def add(path: Path, name: str) -> bytes:
    secret, key = new_key(name, [Scope.EXPLAIN])
    with rewriting(path) as keys:
        keys[name] = key
    return secret.encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_key_counts_when_it_is_there_and_not_when_it_is_gone(path: Path) -> None:
    first = add(path, "first")
    keys = KeyFile(path)
    second = add(path, "second")
    assert keys.ring.find(second) is None
    keys.refresh()
    assert keys.ring.find(first)
    assert keys.ring.find(second)
    with rewriting(path) as found:
        del found["first"]
    keys.refresh()
    assert keys.ring.find(first) is None
    assert keys.ring.find(second)


def test_what_has_not_changed_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(path, "first")
    keys = KeyFile(path)
    monkeypatch.setattr(key_file, "read_keys", lambda _: pytest.fail("read"))
    keys.refresh()


def garbage(path: Path) -> None:
    path.write_text("[keys.")


def nothing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def large(path: Path) -> None:
    path.write_text("#" * 1_000_001)


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


BROKEN = [garbage, nothing, folder, large, binary]


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_file_that_became_wrong_changes_nothing_and_is_told_once(
    path: Path, break_it: object, caplog: pytest.LogCaptureFixture
) -> None:
    secret = add(path, "first")
    keys = KeyFile(path)
    break_it(path)  # type: ignore[operator]
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            keys.refresh()
        assert keys.ring.find(secret)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert str(path) in record.getMessage()
        if path.is_dir():
            path.rmdir()
        path.write_text(render_keys([]))
        keys.refresh()
    assert keys.ring.find(secret) is None
    assert "read the API keys again: 0" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_wrong_file_is_refused_at_the_start(path: Path, break_it: object) -> None:
    add(path, "first")
    break_it(path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"cannot read {path}: "):
        KeyFile(path)


def test_a_file_of_the_largest_size_is_read(path: Path) -> None:
    path.write_text("#" * 1_000_000)
    assert read_keys(path) == ()


def test_no_key_at_all_opens_nothing_and_is_warned_of(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text("")
    assert len(KeyFile(path).ring) == 0
    assert "every call is refused" in caplog.text


def test_only_its_owner_reads_what_is_written(path: Path) -> None:
    old = os.umask(0)
    try:
        add(path, "first")
        path.chmod(0o644)
        add(path, "second")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [other.name for other in path.parent.iterdir()] == ["keys.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_the_file_to_the_user_who_reads_it(path: Path) -> None:
    add(path, "first")
    os.chown(path, 12345, 12345)
    add(path, "second")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12345)


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real" / "keys.toml")
    add(path, "first")
    assert path.is_symlink()
    assert len(read_keys(tmp_path / "real" / "keys.toml")) == 1


def test_a_write_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(path, "first")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(key_file.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            add(path, "second")
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == ["keys.toml"]


def test_many_who_write_at_once_lose_nothing(path: Path) -> None:
    names = [f"k{n}" for n in range(24)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: add(path, name), names))
    assert {key.name for key in read_keys(path)} == set(names)
