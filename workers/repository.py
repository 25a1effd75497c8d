"""The model repository: a folder of folders, each with a `card.toml`. Loads no model."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from camserve.contracts.cards import ModelCard
from camserve.errors import InvalidCard, near_names
from camserve.vocabulary import MODEL_NAME
from workers.model_files import (
    CARD_FILE,
    Signature,
    check_regular,
    deciding,
    digest,
    inside,
    signature,
)

__all__ = [
    "Entry",
    "Glimpse",
    "Repository",
    "entry_of",
    "glimpse",
    "glimpses",
    "is_model_name",
    "model_names",
    "scan",
]

MOST_CARD_BYTES = 1_000_000
_NOTHING: Mapping[str, Glimpse] = MappingProxyType({})


@dataclass(frozen=True)
class Glimpse:
    """A model folder at a glance: its card, and what tells whether its files have changed."""

    name: str
    folder: Path
    text: bytes
    card: ModelCard | InvalidCard
    flaw: InvalidCard | None
    """What is wrong with the files that a valid card names."""
    signature: Signature
    """Of the card first, then of the files that the card names."""

    @property
    def files(self) -> list[Path]:
        return [Path(path) for path, *_ in self.signature[1:]]


@dataclass(frozen=True)
class Entry:
    """One model folder with a valid card."""

    name: str
    folder: Path
    card: ModelCard
    version: str
    signature: Signature = ()

    @property
    def kind(self) -> str:
        """One of `camserve.contracts.cards.SOURCES`."""
        return self.card.source.partition(":")[0]

    @property
    def reference(self) -> str:
        """What stands behind the colon of the source."""
        return self.card.source.partition(":")[2]

    def path(self, name: str) -> Path:
        """A file or folder of the model folder; raises InvalidCard for one outside it."""
        return inside(self.folder, self.name, name)

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

    def is_as_read(self) -> bool:
        """Whether its files are still those that its version is the digest of."""
        try:
            files = [self.folder / CARD_FILE, *deciding(self.folder, self.name, self.card)]
        except (InvalidCard, OSError):
            return False
        return signature(files) == self.signature


@dataclass(frozen=True)
class Repository:
    """All model folders: those with a valid card, and why the others have none.

    A worker's own: what changes on disk is brought in by its `Upkeep`, in place.
    """

    entries: dict[str, Entry]
    invalid: dict[str, InvalidCard]
    glimpses: Mapping[str, Glimpse] = field(default_factory=dict)
    """All folders as they were when they were read."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)

    def knows(self, name: str) -> bool:
        """Whether there is such a folder, with a valid card or not."""
        return name in self.entries or name in self.invalid


def scan(models_dir: Path) -> Repository:
    """Read all cards under `models_dir`. A bad card is reported, and harms no other model."""
    entries: dict[str, Entry] = {}
    invalid: dict[str, InvalidCard] = {}
    try:
        found = glimpses(models_dir)
    except OSError:  # not there, or not yet
        found = {}
    for name, seen in found.items():
        try:
            entries[name] = entry_of(seen)
        except InvalidCard as error:
            invalid[name] = error
    return Repository(entries, invalid, found)


def glimpses(models_dir: Path, before: Mapping[str, Glimpse] = _NOTHING) -> dict[str, Glimpse]:
    """All model folders by name, sorted. Opens a card only where it differs from `before`.

    Raises OSError where `models_dir` itself cannot be read.
    """
    return {
        folder.name: glimpse(folder, before.get(folder.name)) for folder in _folders(models_dir)
    }


def entry_of(seen: Glimpse) -> Entry:
    """The entry with its version, for which all its files are read. Raises InvalidCard."""
    name, card = seen.name, seen.card
    if isinstance(card, InvalidCard):
        raise card
    if seen.flaw is not None:
        raise seen.flaw
    try:
        version = digest(seen.text, seen.files)
    except OSError as error:
        raise InvalidCard(f"model {name!r}: its files cannot be read: {error}") from error
    return Entry(name, seen.folder, card, version, seen.signature)


def is_model_name(name: str) -> bool:
    """Whether a request can name a model so."""
    return re.fullmatch(MODEL_NAME, name) is not None


def model_names(models_dir: Path) -> tuple[str, ...]:
    """Names of the model folders, with valid cards or not; reads no file."""
    try:
        names = (folder.name for folder in _folders(models_dir))
        return tuple(filter(is_model_name, names))
    except OSError:
        return ()


def _folders(models_dir: Path) -> list[Path]:
    """All that hold a card; hidden folders (.git, .ipynb_checkpoints) are no models."""
    with os.scandir(models_dir) as found:  # unlike a glob, it says when it cannot look
        names = sorted(one.name for one in found if not one.name.startswith("."))
    folders = (models_dir / name for name in names)
    return [folder for folder in folders if os.path.lexists(folder / CARD_FILE)]


def glimpse(folder: Path, before: Glimpse | None = None) -> Glimpse:
    """One model folder. Opens its card only where that differs from `before`."""
    name, path = folder.name, folder / CARD_FILE
    own = signature([path])
    text, files, flaw = b"", [], None
    card: ModelCard | InvalidCard
    if before is not None and before.signature[:1] == own:
        text, card = before.text, before.card
    else:
        try:
            text = _text(name, path)
            card = _parsed(name, text)
        except InvalidCard as error:
            card = error
    if isinstance(card, ModelCard):
        try:
            files = deciding(folder, name, card)
            check_regular(name, files)
        except InvalidCard as error:
            flaw = error
        except OSError as error:
            flaw = InvalidCard(f"model {name!r}: its files cannot be read: {error}")
    return Glimpse(name, folder, text, card, flaw, (*own, *signature(files)))


def _text(name: str, path: Path) -> bytes:
    if not is_model_name(name):
        raise InvalidCard(
            f"the model folder {name!r} must be renamed: up to 64 lower-case letters, digits, "
            "'.', '_' and '-', with a letter or digit first"
        )
    try:
        if not path.is_file() or path.stat().st_size > MOST_CARD_BYTES:
            # a pipe, or a link to a device, would never end
            raise InvalidCard(f"model {name!r}: {CARD_FILE} must be a file of at most 1 MB")
        return path.read_bytes()
    except OSError as error:
        raise InvalidCard(f"model {name!r}, {CARD_FILE}: {error}") from error


def _parsed(name: str, text: bytes) -> ModelCard:
    try:
        return ModelCard.model_validate(tomllib.loads(text.decode()))
    except ValidationError as error:
        raise InvalidCard(f"model {name!r}, {CARD_FILE}: {_finding(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidCard(f"model {name!r}, {CARD_FILE}: {error}") from error


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
