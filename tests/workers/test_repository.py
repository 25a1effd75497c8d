"""Reading the model repository: what a card may say, and that a bad one harms no other model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.workers.cards import TINY, entry_of, write_model
from workers.repository import model_names, scan


def test_a_good_card(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "good", 'title = "Good"\n' + TINY)
    repository = scan(tmp_path)
    assert repository.names == ("good",)
    assert repository.invalid == {}
    entry = repository.entries["good"]
    assert (entry.kind, entry.reference) == ("factory", "tests.workers.factories:tiny")
    assert entry.card.title == "Good"
    assert entry.card.input == {"height": 8, "width": 8, "colors": "L"}
    assert entry.folder == folder
    assert entry.is_local


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ("source = ", "Invalid value"),
        ("\xff", "card.toml"),
        ("a = " + "[" * 5000, "recursion"),
        ('title = "no source"', "the field 'source' is missing"),
        (
            'source = "pickle:model.pkl"',
            "none of export:FILE.pt2, onnx:FILE.onnx, transformers:NAME, timm:NAME, torchvision:",
        ),
        ('source = "torchscript:model.pt"', "TorchScript cannot be hooked"),
        (
            'source = "export:m.pt2"\nlables = ["a"]',
            "unknown field 'lables'; did you mean 'labels'?",
        ),
        ('source = "export:m.pt2"\n[input]\nheigth = 8', "unknown input field 'heigth'"),
        ('source = "export:../m.pt2"', "'../m.pt2' is not inside the model's folder"),
        ('source = "onnx:../m.onnx"', "'../m.onnx' is not inside the model's folder"),
        ('source = "export:/etc/passwd"', "'/etc/passwd' is not inside the model's folder"),
        ('source = "transformers:../other"', "'../other' is not inside the model's folder"),
        (
            'source = "factory:a:b"\nweights = "../w.safetensors"',
            "'../w.safetensors' is not inside the model's folder",
        ),
    ],
)
def test_a_bad_card_says_what_is_wrong_and_harms_no_other(
    tmp_path: Path, card: str, reason: str
) -> None:
    write_model(tmp_path, "good", TINY)
    folder = write_model(tmp_path, "bad", "")
    (folder / "card.toml").write_bytes(card.encode("latin-1"))
    repository = scan(tmp_path)
    assert repository.names == ("good",)
    assert list(repository.invalid) == ["bad"]
    message = str(repository.invalid["bad"])
    assert "'bad'" in message
    assert reason in message


@pytest.mark.parametrize("name", ["Upper", "with space", "ümlaut", "x" * 65, "-dash", "line\n"])
def test_a_folder_name_that_no_request_could_give(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, "good", TINY)
    write_model(tmp_path, name, TINY)
    repository = scan(tmp_path)
    assert repository.names == ("good",)
    assert "must be renamed" in str(repository.invalid[name])
    assert model_names(tmp_path) == ("good",)


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    write_model(tmp_path, ".git", TINY)
    (tmp_path / "notes").mkdir()
    (tmp_path / "card.toml").write_text(TINY)
    assert scan(tmp_path).names == ()
    assert scan(tmp_path).invalid == {}
    assert scan(tmp_path / "not there").names == ()


def test_a_card_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "odd" / "card.toml").mkdir(parents=True)
    assert "odd" in scan(tmp_path).invalid


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "good", TINY)
    folder = write_model(tmp_path, "locked", 'source = "export:model.pt2"')
    (folder / "model.pt2").write_bytes(b"x")
    opened = Path.open

    def refuse(path: Path, mode: str = "r", **options: object) -> object:
        if path.name == "model.pt2":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    repository = scan(tmp_path)
    assert repository.names == ("good",)
    assert "Permission denied" in str(repository.invalid["locked"])


def test_the_version_is_a_digest_of_card_and_files(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", 'source = "export:model.pt2"\n')
    bare = entry_of(folder).version
    (folder / "model.pt2").write_bytes(b"one")
    one = entry_of(folder).version
    (folder / "model.pt2").write_bytes(b"two")
    two = entry_of(folder).version
    (folder / "README.md").write_text("not of the model")
    assert entry_of(folder).version == two
    os.utime(folder / "model.pt2", (0, 0))
    assert entry_of(folder).version == two
    (folder / "card.toml").write_text('source = "export:model.pt2"\ntitle = "T"\n')
    assert len({bare, one, two, entry_of(folder).version}) == 4


def test_the_version_of_a_factory_and_of_a_local_folder(tmp_path: Path) -> None:
    factory = write_model(tmp_path, "f", f'weights = "w.safetensors"\n{TINY}')
    before = entry_of(factory).version
    (factory / "w.safetensors").write_bytes(b"weights")
    assert entry_of(factory).version != before
    local = write_model(tmp_path, "t", 'source = "transformers:files"')
    assert not entry_of(local).is_local
    before = entry_of(local).version
    (local / "files").mkdir()
    (local / "files" / "config.json").write_text("{}")
    assert entry_of(local).is_local
    assert entry_of(local).version != before


def test_the_version_of_an_onnx_model_counts_its_weights_beside_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", 'source = "onnx:model.onnx"')
    (folder / "model.onnx").write_bytes(b"graph")
    graph = entry_of(folder).version
    (folder / "model.onnx.data").write_bytes(b"weights")
    weights = entry_of(folder).version
    (folder / "README.md").write_text("not of the model")
    assert entry_of(folder).version == weights != graph


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_a_library_model_is_local_with_weights_of_its_own(tmp_path: Path, kind: str) -> None:
    published = write_model(tmp_path, "a", f'source = "{kind}:resnet50"')
    own = write_model(tmp_path, "b", f'source = "{kind}:resnet50"\nweights = "w.safetensors"')
    assert not entry_of(published).is_local
    assert entry_of(own).is_local
    before = entry_of(own).version
    (own / "w.safetensors").write_bytes(b"weights")
    assert entry_of(own).version != before


def test_links_that_somebody_put_there_are_followed(tmp_path: Path) -> None:
    """A large file need not be copied, and a folder may live elsewhere."""
    real = write_model(tmp_path / "real", "m", 'source = "onnx:model.onnx"\n')
    (tmp_path / "blob").write_bytes(b"1")
    (real / "model.onnx").symlink_to(tmp_path / "blob")
    models = tmp_path / "models"
    models.mkdir()
    (models / "m").symlink_to(real)
    (entry,) = scan(models).entries.values()
    (tmp_path / "blob").write_bytes(b"2")
    assert scan(models).entries["m"].version != entry.version


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_a_card_that_is_no_small_file_hangs_nobody(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path, "good", TINY)
    card = write_model(tmp_path, "bad", "") / "card.toml"
    card.unlink()
    match kind:
        case "pipe":
            os.mkfifo(card)
        case "device":
            card.symlink_to("/dev/zero")
        case "folder":
            card.mkdir()
        case "huge":
            card.write_text("# " + "x" * 1_000_000)
    repository = scan(tmp_path)
    assert repository.names == ("good",)
    assert "card.toml must be a file of at most 1 MB" in str(repository.invalid["bad"])
