"""The files of a model folder: which of them decide what the model computes, and what they hold."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from pathlib import Path

from camserve.contracts.cards import ModelCard
from camserve.errors import InvalidCard

__all__ = ["CARD_FILE", "Signature", "check_regular", "deciding", "digest", "inside", "signature"]

CARD_FILE = "card.toml"

Signature = tuple[tuple[str, int, int, int, int], ...]
"""Of each file its path, kind, number, size in bytes and time of change in ns."""


def inside(folder: Path, model: str, name: str) -> Path:
    """A file or folder of the model folder; raises InvalidCard for one outside it.

    A link is followed: who may make one in the repository may also choose what it holds.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidCard(f"model {model!r}: {name!r} is not inside the model's folder")
    return folder / name


def deciding(folder: Path, model: str, card: ModelCard) -> list[Path]:
    """The local files, there or not, that decide what the model computes; without its card.

    Raises InvalidCard for one outside the folder, OSError.
    """
    kind, _, reference = card.source.partition(":")
    files = [inside(folder, model, card.weights)] if card.weights else []
    if kind == "export":
        files.append(inside(folder, model, reference))
    elif kind == "onnx":
        graph = inside(folder, model, reference)
        # weights may lie in files beside it, and only the model knows their names
        beside = sorted(graph.parent.iterdir()) if graph.is_file() else []
        files += [
            file
            for file in (beside or [graph])
            if file.name != CARD_FILE and file.suffix != ".md" and not file.is_dir()
        ]
    elif kind == "transformers":
        local = inside(folder, model, reference)
        if local.is_dir():
            files += sorted(file for file in local.glob("*.*") if not file.is_dir())
    return files


def signature(files: Iterable[Path]) -> Signature:
    """What differs once one of the files does. Opens none, so that a pipe hangs nobody."""
    return tuple(_signature(file) for file in files)


def check_regular(model: str, files: Iterable[Path]) -> None:
    """Raises InvalidCard for a pipe, a socket or a device, which reading would wait for."""
    for file in files:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise InvalidCard(
                f"model {model!r}: {file.name!r} is a pipe, a socket or a device, and no file"
            )


def digest(card: bytes, files: Iterable[Path]) -> str:
    """The version of a model: 12 hex digits. Missing files do not count. Raises OSError."""
    found = hashlib.sha256(card)
    for file in files:
        if file.is_file():
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()[:12]


def _signature(file: Path) -> tuple[str, int, int, int, int]:
    try:
        about = file.stat()
    except OSError as error:  # not there, or not to be read now
        return str(file), 0, 0, 0, -(error.errno or 0)
    kind = stat.S_IFMT(about.st_mode)
    return str(file), kind, about.st_ino, about.st_size, about.st_mtime_ns
