"""What a look at the model repository finds: changes that have settled, and nothing else."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from camserve.errors import InvalidCard
from tests.workers.cards import TINY, write_model
from workers import model_files, repository
from workers.repository import Entry, scan
from workers.watch import Change, Watch

EXPORT = 'source = "export:model.pt2"\n'


def watch_of(models: Path) -> Watch:
    return Watch(models, scan(models).glimpses)


def settled(watch: Watch) -> dict[str, Entry | InvalidCard | None]:
    """What the second of two looks finds; the first must find nothing."""
    assert watch.look() == []
    return {change.name: change.found for change in watch.look()}


def test_nothing_has_changed(tmp_path: Path) -> None:
    write_model(tmp_path, "a", TINY)
    write_model(tmp_path, "bad", "source = ")
    watch = watch_of(tmp_path)
    assert [watch.look() for _ in range(3)] == [[], [], []]


def test_a_new_folder_a_changed_one_and_one_that_is_gone(tmp_path: Path) -> None:
    for name in ("gone", "other", "same"):
        write_model(tmp_path, name, EXPORT)
    before = scan(tmp_path).entries
    watch = watch_of(tmp_path)
    write_model(tmp_path, "new", TINY)
    (tmp_path / "other" / "model.pt2").write_bytes(b"weights")
    shutil.rmtree(tmp_path / "gone")
    found = settled(watch)
    assert set(found) == {"gone", "new", "other"}
    assert found["gone"] is None
    assert {name: found[name] for name in ("new", "other")} == {
        name: entry for name, entry in scan(tmp_path).entries.items() if name in ("new", "other")
    }
    assert found["other"].version != before["other"].version  # type: ignore[union-attr]
    assert settled(watch) == {}, "told once"


def test_a_folder_that_is_being_copied_is_left_alone(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    weights = write_model(tmp_path, "m", EXPORT) / "model.pt2"
    for size in (1, 2, 3):
        weights.write_bytes(b"x" * size)
        assert watch.look() == []
    (change,) = watch.look()
    assert change == Change("m", scan(tmp_path).entries["m"])


def test_a_folder_that_is_replaced_was_never_gone(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", TINY)
    watch = watch_of(tmp_path)
    shutil.rmtree(folder)
    assert watch.look() == []
    write_model(tmp_path, "m", EXPORT)
    assert watch.look() == []
    (change,) = watch.look()
    assert isinstance(change.found, Entry)
    assert change.found.kind == "export"


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest of two halves would be the version of nothing."""
    watch = watch_of(tmp_path)
    weights = write_model(tmp_path, "m", EXPORT) / "model.pt2"
    weights.write_bytes(b"one")
    digest = model_files.digest

    def changing(card: bytes, files: list[Path]) -> str:
        found = digest(card, files)
        weights.write_bytes(b"two, and longer")
        return found

    assert watch.look() == []
    with monkeypatch.context() as patch:
        patch.setattr(repository, "digest", changing)
        assert watch.look() == []
    assert settled(watch) == {"m": scan(tmp_path).entries["m"]}


def test_only_what_has_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "a", TINY)
    write_model(tmp_path, "bad", "source = ")
    (tmp_path / "weights" / "m").mkdir(parents=True)
    watch = watch_of(tmp_path)
    opened: list[str] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        opened.append(path.parent.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    watch.look()
    assert opened == []
    write_model(tmp_path, "b", TINY)
    watch.look()
    watch.look()
    watch.look()
    assert opened == ["b"]


def test_a_bad_card_and_its_repair(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", TINY)
    watch = watch_of(tmp_path)
    (folder / "card.toml").write_text("source = ")
    error = settled(watch)["m"]
    assert isinstance(error, InvalidCard)
    (folder / "card.toml").write_text(TINY)
    assert settled(watch) == {"m": scan(tmp_path).entries["m"]}


def test_a_file_that_only_looks_new_is_told(tmp_path: Path) -> None:
    """Somebody touched it: what failed may be tried again. The version is the same."""
    folder = write_model(tmp_path, "m", TINY)
    before = scan(tmp_path).entries["m"]
    watch = watch_of(tmp_path)
    os.utime(folder / "card.toml", (1, 1))
    found = settled(watch)["m"]
    assert isinstance(found, Entry)
    assert (found.version, found.signature != before.signature) == (before.version, True)


@pytest.mark.parametrize("kind", ["pipe", "socket-like device"])
@pytest.mark.parametrize(
    ("card", "file"),
    [
        (EXPORT, "model.pt2"),
        ('source = "onnx:model.onnx"\n', "model.onnx"),
        ('source = "transformers:files"\n', "files/config.json"),
        (f'weights = "w.safetensors"\n{TINY}', "w.safetensors"),
    ],
)
def test_what_is_no_file_hangs_nobody_and_is_said(
    tmp_path: Path, card: str, file: str, kind: str
) -> None:
    path = write_model(tmp_path, "m", card) / file
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
        assert stat.S_ISCHR(path.stat().st_mode)
    watch = Watch(tmp_path, {})
    error = settled(watch)["m"]
    assert isinstance(error, InvalidCard)
    assert f"{path.name!r} is a pipe, a socket or a device" in str(error)
    assert settled(watch) == {}
    path.unlink()
    assert isinstance(settled(watch)["m"], Entry)


def test_a_repository_that_cannot_be_read_has_lost_nothing(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "m", TINY)
    watch = watch_of(models)
    models.rename(tmp_path / "elsewhere")
    for _ in range(3):
        with pytest.raises(OSError, match="models"):
            watch.look()
    (tmp_path / "elsewhere").rename(models)
    assert settled(watch) == {}


def test_a_link_that_is_pointed_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As deployments swap whole folders at once."""
    one = write_model(tmp_path / "releases", "1", TINY)
    two = write_model(tmp_path / "releases", "2", EXPORT)
    models = tmp_path / "models"
    models.mkdir()
    (models / "m").symlink_to(one)
    watch = watch_of(models)
    (models / "m.new").symlink_to(two)
    (models / "m.new").rename(models / "m")
    found = settled(watch)["m"]
    assert isinstance(found, Entry)
    assert found.kind == "export"
