"""What a run over many files has done, kept so that the next run does the rest.

`manifest.jsonl` in the folder of results: a line of JSON for each file that was explained or
failed, appended when its results are in their place. The last line of a file is the one that
counts; a line that was cut off by a crash is none.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal, Self

if sys.platform != "win32":
    import fcntl

__all__ = ["NAME", "Entry", "Manifest"]

NAME: Final = "manifest.jsonl"


@dataclass(frozen=True)
class Entry:
    """A file as it was, what was asked of it, and what came of it.

    name: path in the folder of the inputs. options: digest of all that was asked, model version
    included. outputs: paths in the folder of results. error: problem document of a failure.
    """

    name: str
    size: int
    mtime_ns: int
    sha256: str
    options: str
    state: Literal["succeeded", "failed"]
    at: str
    outputs: tuple[str, ...] = ()
    explanation: str | None = None
    error: dict[str, Any] | None = None

    @classmethod
    def of(cls, line: bytes) -> Self | None:
        """The entry of a line, or None for one that is none."""
        try:
            document = json.loads(line)
            known = {field.name: document[field.name] for field in fields(cls)}
        except (ValueError, KeyError, TypeError):
            return None
        return cls(**known | {"outputs": tuple(known["outputs"])})


class Manifest:
    """The manifest of a folder of results, held by one run at a time; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._entries: dict[str, Entry] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Raises ValueError if another run holds it, and OSError."""
        file = self.path.open("a+b")
        try:
            self._hold(file)
            self._read(file)
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()  # which lets go of it

    def _hold(self, file: BinaryIO) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another run writes to {self.path.parent}: wait for it") from None

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            if (entry := Entry.of(line)) is not None:
                self._entries[entry.name] = entry
        file.truncate(end)

    def entry(self, name: str) -> Entry | None:
        """What is known of a file."""
        return self._entries.get(name)

    def append(self, entry: Entry) -> None:
        """Once it returns, the entry survives whatever happens. Blocks."""
        if self._file is None:
            raise ValueError("the manifest is not open")
        line = json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._entries[entry.name] = entry
