"""The model repository: a folder of folders, each with a `card.toml`. Reads cards only."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from camserve.contracts.cards import ModelCard
from camserve.errors import InvalidCard, near_names
from camserve.vocabulary import MODEL_NAME

__all__ = ["CARD_FILE", "Entry", "Repository", "model_names", "scan"]

CARD_FILE = "card.toml"
MOST_CARD_BYTES = 1_000_000


@dataclass(frozen=True)
class Entry:
    """One model folder with a valid card."""

    name: str
    folder: Path
    card: ModelCard
    version: str

    @property
    def kind(self) -> str:
        """One of `camserve.contracts.cards.SOURCES`."""
        return self.card.source.partition(":")[0]

    @property
    def reference(self) -> str:
        """What stands behind the colon of the source."""
        return self.card.source.partition(":")[2]

    def path(self, name: str) -> Path:
        """A file or folder of the model folder; raises InvalidCard for one outside it.

        A link is followed: who may make one in the repository may also choose what it holds.
        """
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InvalidCard(f"model {self.name!r}: {name!r} is not inside the model's folder")
        return self.folder / name

    @property
    def is_local(self) -> bool:
        """Whether the model loads without a network."""
        match self.kind:
            case "transformers":
                return self.path(self.reference).is_dir()
            case "timm" | "torchvision":
                return self.card.weights is not None
            case _:
                return True


@dataclass(frozen=True)
class Repository:
    """All model folders: those with a valid card, and why the others have none."""

    entries: dict[str, Entry]
    invalid: dict[str, InvalidCard]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)


def scan(models_dir: Path) -> Repository:
    """Read all cards under `models_dir`. A bad card is reported, and harms no other model."""
    entries: dict[str, Entry] = {}
    invalid: dict[str, InvalidCard] = {}
    for path in _cards(models_dir):
        name = path.parent.name
        try:
            entries[name] = _read(name, path)
        except InvalidCard as error:
            invalid[name] = error
    return Repository(entries, invalid)


def model_names(models_dir: Path) -> tuple[str, ...]:
    """Names of the model folders, with valid cards or not; reads no file."""
    names = (path.parent.name for path in _cards(models_dir))
    return tuple(name for name in names if re.fullmatch(MODEL_NAME, name))


def _cards(models_dir: Path) -> list[Path]:
    """All cards; hidden folders (.git, .ipynb_checkpoints) are no models."""
    cards = sorted(models_dir.glob(f"*/{CARD_FILE}"))
    return [path for path in cards if not path.parent.name.startswith(".")]


def _read(name: str, path: Path) -> Entry:
    if not re.fullmatch(MODEL_NAME, name):
        raise InvalidCard(
            f"the model folder {name!r} must be renamed: up to 64 lower-case letters, digits, "
            "'.', '_' and '-', with a letter or digit first"
        )
    if not path.is_file() or path.stat().st_size > MOST_CARD_BYTES:
        # a pipe, or a link to a device, would never end
        raise InvalidCard(f"model {name!r}: {CARD_FILE} must be a file of at most 1 MB")
    try:
        text = path.read_bytes()
        card = ModelCard.model_validate(tomllib.loads(text.decode()))
    except ValidationError as error:
        raise InvalidCard(f"model {name!r}, {CARD_FILE}: {_finding(error)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidCard(f"model {name!r}, {CARD_FILE}: {error}") from error
    entry = Entry(name, path.parent, card, version="")
    try:
        return Entry(name, path.parent, card, version=_digest(text, _files(entry)))
    except OSError as error:
        raise InvalidCard(f"model {name!r}: its files cannot be read: {error}") from error


def _finding(error: ValidationError) -> str:
    """The first thing that is wrong with a card, in an operator's words."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "the card"
    if first["type"] == "extra_forbidden":
        near = near_names(field, ModelCard.model_fields)
        return f"unknown field {field!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if first["type"] == "missing":
        return f"the field {field!r} is missing"
    if field == "source":
        advice = "; TorchScript cannot be hooked" if "script" in str(first["input"]).lower() else ""
        return (
            f"source {first['input']!r} is none of export:FILE.pt2, onnx:FILE.onnx, "
            "transformers:NAME, timm:NAME, torchvision:NAME and factory:package.module:callable"
            f"{advice}: the recommended way is torch.export.save"
        )
    return f"{field}: {str(first['msg']).removeprefix('Value error, ')}"


def _files(entry: Entry) -> list[Path]:
    """The local files that decide what the model computes."""
    files = [entry.path(entry.card.weights)] if entry.card.weights else []
    if entry.kind == "export":
        files.append(entry.path(entry.reference))
    elif entry.kind == "onnx":
        model = entry.path(entry.reference)
        # weights may lie in files beside it, and only the model knows their names
        files += [
            file
            for file in (sorted(model.parent.iterdir()) if model.is_file() else [])
            if file.name != CARD_FILE and file.suffix != ".md"
        ]
    elif entry.kind == "transformers" and entry.is_local:
        files += sorted(entry.path(entry.reference).glob("*.*"))
    return [file for file in files if file.is_file()]


def _digest(card: bytes, files: list[Path]) -> str:
    digest = hashlib.sha256(card)
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]
