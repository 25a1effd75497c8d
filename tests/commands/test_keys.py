"""`camserve keys`: make, list, revoke."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from camserve.__main__ import main
from camserve.api_keys import KeyRing
from camserve.key_file import read_keys

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAMSERVE_API_KEYS_FILE", str(tmp_path / "keys.toml"))
    return tmp_path / "keys.toml"


@pytest.fixture
def keys(path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["keys", *arguments])
        return (code, *capsys.readouterr())

    return run


def test_a_key_is_shown_once_and_alone(keys: Run, path: Path) -> None:
    code, shown, said = keys("add", "dashboard", "--scope", "explain", "--rate", "60")
    assert code == 0
    assert re.fullmatch(r"camserve_[0-9a-f]{64}\n", shown)
    assert "not shown again" in said
    secret = shown.strip()
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = KeyRing(read_keys(path)).find(secret.encode())
    assert found is not None
    assert (found.name, sorted(found.scopes), found.rate_limit_per_minute) == (
        "dashboard",
        ["explain"],
        60,
    )


def test_list_shows_all_but_what_is_secret(keys: Run, path: Path) -> None:
    assert keys("add", "a")[0] == keys("add", "b", "--scope", "admin", "--rate", "5")[0] == 0
    code, shown, _ = keys("list")
    header, *rows = (line.split() for line in shown.splitlines())
    assert code == 0
    assert header == ["NAME", "SCOPES", "RATE", "CREATED"]
    assert [row[:3] for row in rows] == [["a", "explain", "-"], ["b", "admin", "5/min"]]
    assert not any(key.sha256 in shown for key in read_keys(path))


def test_what_is_removed_is_gone(keys: Run, path: Path) -> None:
    keys("add", "a")
    assert keys("remove", "a")[0] == 0
    assert read_keys(path) == ()
    code, _, said = keys("remove", "a")
    assert code == 1
    assert "there is no key 'a'" in said


def test_a_name_is_one_key(keys: Run, path: Path) -> None:
    keys("add", "a")
    before = path.read_bytes()
    code, shown, said = keys("add", "a", "--scope", "admin")
    assert (code, shown) == (1, "")
    assert "remove it first" in said
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [("add", "a b"), ("add", "a", "--rate", "0"), ("list",), ("remove", "a")]
)
def test_what_cannot_be_done_is_said(keys: Run, path: Path, arguments: tuple[str, ...]) -> None:
    path.write_text("[keys.")
    code, shown, said = keys(*arguments)
    assert (code, shown) == (2, "")
    assert said.startswith("camserve keys: ")
    assert path.read_text() == "[keys."


def test_a_folder_that_is_not_there(
    keys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMSERVE_API_KEYS_FILE", str(tmp_path / "none" / "keys.toml"))
    code, shown, said = keys("add", "a")
    assert (code, shown) == (2, "")
    assert "No such file or directory" in said


def test_no_file_is_named(keys: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAMSERVE_API_KEYS_FILE")
    code, _, said = keys("add", "a")
    assert code == 2
    assert "CAMSERVE_API_KEYS_FILE is not set" in said
