"""Notes on disk of who loads what now: what is left of a load that took its process along.

Files, since they are there whoever dies and while Redis is away, and belong to one host, as its
repository does. A note is locked by the process that loads; the kernel takes the lock back when
that ends, whatever ends it, so that an unlocked note is of a dead one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Loading", "abandoned", "noted", "read_document", "write_document"]

_SUFFIX = ".loading"


@dataclass(frozen=True)
class Loading:
    """One load of one version of a model. repository: path of the folder of model folders."""

    repository: str
    model: str
    version: str
    device: str
    worker: str


@contextlib.contextmanager
def noted(folder: Path, loading: Loading) -> Iterator[Path]:
    """While it is being loaded; gives the note. Raises OSError where none can be made."""
    path = folder / f"{secrets.token_hex(8)}{_SUFFIX}"
    written = path.with_suffix(".new")
    handle = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, json.dumps(asdict(loading)).encode())
        written.rename(path)  # only now is it seen, locked and whole
        yield path
    finally:
        path.unlink(missing_ok=True)
        written.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def abandoned(folder: Path) -> Iterator[list[Loading]]:
    """All loads whose process is dead, for one caller at a time; afterwards they are forgotten.

    Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gate = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        found = {path: _read(path) for path in folder.glob(f"*{_SUFFIX}") if _is_abandoned(path)}
        yield [loading for loading in found.values() if loading is not None]
        for path in found:
            path.unlink(missing_ok=True)
    finally:
        os.close(gate)


def read_document(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none, or what is there is damaged."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all. Raises OSError."""
    written = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        written.write_text(json.dumps(document))
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # its load has just ended
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _read(path: Path) -> Loading | None:
    document = read_document(path)
    try:
        return Loading(**document) if document else None
    except TypeError:
        return None
