"""One of many files: is there anything to do, and where does what comes of it go?"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from camserve.client import AsyncClient, AsyncExplanation
from camserve.client.calls import Form
from camserve.commands.files import Source
from camserve.commands.manifest import Entry, Manifest
from camserve.commands.outputs import write_atomically

__all__ = ["CannotWrite", "FileRun", "Options"]


class CannotWrite(Exception):
    """The folder of results takes no more."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"{error.filename}: {error.strerror}" if error.filename else str(error))


@dataclass(frozen=True)
class Options:
    """What is asked of every file. version: of the model, since another one gives other maps."""

    arguments: Mapping[str, Any]
    mask: str | None
    picture: Form
    with_map: bool
    version: str

    def digest(self) -> str:
        """Equal for equal results."""
        mask = hashlib.sha256(Path(self.mask).read_bytes()).hexdigest() if self.mask else None
        # one that is computed afresh is no other result
        arguments = {name: v for name, v in self.arguments.items() if name != "no_cache"}
        asked = [arguments, mask, self.picture, self.with_map, self.version]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Read:
    """A file as it was read."""

    data: bytes
    size: int
    mtime_ns: int
    sha256: str


class FileRun:
    """Explains files into a folder of results, each once. Raises OSError for an unreadable mask."""

    def __init__(
        self, client: AsyncClient, manifest: Manifest, out: Path, options: Options
    ) -> None:
        self._client = client
        self._manifest = manifest
        self._out = out
        self._options = options
        self._digest = options.digest()
        self._writing = asyncio.Lock()  # lines of the manifest, one after the other

    async def explain(self, source: Source) -> bool:
        """Whether there was anything to do. Raises ClientError, OSError for a file that cannot be
        read, and CannotWrite."""
        known = self._manifest.entry(source.name)
        if known is not None and not await asyncio.to_thread(self._is_done, known):
            known = None
        if known is not None:
            status = await asyncio.to_thread(source.path.stat)
            if (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns):
                return False
        file = await asyncio.to_thread(_read, source.path)
        if known is not None and file.sha256 == known.sha256:
            # touched, not changed: need not be read again next time
            await self._note(source, file, known.outputs, known.explanation)
            return False
        opened = io.BytesIO(file.data)
        opened.name = source.path.name
        explanation = await self._client.explain(
            opened, mask=self._options.mask, **self._options.arguments
        )
        outputs = await self._written(source, explanation)
        await self._note(source, file, outputs, explanation.id)
        return True

    async def note_failure(self, source: Source, document: dict[str, Any]) -> None:
        """So that the manifest tells of it; the next run tries again."""
        entry = Entry(
            name=source.name,
            size=-1,
            mtime_ns=-1,
            sha256="",
            options=self._digest,
            state="failed",
            at=_now(),
            error=document,
        )
        await self._append(entry)

    def _is_done(self, entry: Entry) -> bool:
        """Whether it was explained as is asked now, and its results are still there."""
        return (
            entry.state == "succeeded"
            and entry.options == self._digest
            and all((self._out / name).is_file() for name in entry.outputs)
        )

    async def _written(self, source: Source, explanation: AsyncExplanation) -> tuple[str, ...]:
        """Writes the results; returns their paths in the folder of results."""
        files: dict[str, bytes] = {}
        several = len(explanation.results) > 1
        for number, result in enumerate(explanation.results):
            stem = f"{source.name}.{number}" if several else source.name
            picture = await result.overlay(self._options.picture)
            files[f"{stem}.overlay.{self._options.picture}"] = picture
            if self._options.with_map:
                files[f"{stem}.map.npy"] = await result.npy()
        # last: who sees it finds the others, too
        files[f"{source.name}.json"] = explanation.document.model_dump_json().encode() + b"\n"
        try:
            await asyncio.to_thread(self._write, files)
        except OSError as error:
            raise CannotWrite(error) from error
        return tuple(files)

    def _write(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            path = self._out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)

    async def _note(
        self, source: Source, file: _Read, outputs: tuple[str, ...], explanation: str | None
    ) -> None:
        entry = Entry(
            name=source.name,
            size=file.size,
            mtime_ns=file.mtime_ns,
            sha256=file.sha256,
            options=self._digest,
            state="succeeded",
            at=_now(),
            outputs=outputs,
            explanation=explanation,
        )
        await self._append(entry)

    async def _append(self, entry: Entry) -> None:
        async with self._writing:
            try:
                await asyncio.to_thread(self._manifest.append, entry)
            except OSError as error:
                raise CannotWrite(error) from error


def _read(path: Path) -> _Read:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        data = file.read()
    return _Read(data, status.st_size, status.st_mtime_ns, hashlib.sha256(data).hexdigest())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
