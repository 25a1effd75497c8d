"""The file of API keys: read again when it changes, and written so that no reader sees half."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from camserve.api_keys import ApiKey, KeyRing, parse_keys, render_keys
from camserve.errors import one_line

__all__ = ["KeyFile", "read_keys", "rewriting"]

logger = logging.getLogger(__name__)

_LARGEST_BYTES: Final = 1_000_000


class KeyFile:
    """The keys as they were last read; `refresh` looks whether the file has changed.

    Raises ValueError for a file that is missing or wrong when it is opened. Later on such a file
    changes nothing and is complained of: the last good keys count until it is mended, so that a
    slip of an editor locks nobody out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _fingerprint(path)
        try:
            self.ring = KeyRing(read_keys(path))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {_reason(error)}") from error
        if not len(self.ring):
            logger.warning("%s holds no API key: every call is refused", path)

    def refresh(self) -> None:
        """Read the file again if it is another one. Blocks: for a thread."""
        seen = _fingerprint(self._path)
        if seen == self._seen:
            return
        self._seen = seen  # complain once of each version
        try:
            self.ring = KeyRing(read_keys(self._path))
        except (OSError, ValueError) as error:
            logger.error(  # noqa: TRY400 - the reason is all
                "the API keys stay as they were, for %s cannot be read: %s",
                self._path,
                _reason(error),
            )
        else:
            logger.info("read the API keys again: %d in %s", len(self.ring), self._path)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Raises OSError or ValueError."""
    with path.open("rb") as file:
        data = file.read(_LARGEST_BYTES + 1)
    if len(data) > _LARGEST_BYTES:
        raise ValueError(f"larger than {_LARGEST_BYTES} bytes")
    return parse_keys(data.decode("utf-8"))  # whose error is a ValueError, too


@contextlib.contextmanager
def rewriting(path: Path) -> Iterator[dict[str, ApiKey]]:
    """The keys by their names, to be changed: what is there at the end is written.

    One at a time, for whoever writes this way. Begins with none if there is no file; its folder
    must be there. Raises OSError, or ValueError for a file that cannot be read.
    """
    path = path.resolve()  # a link stays one, and leads to the new file
    with _locked(path.parent):
        try:
            keys = {key.name: key for key in read_keys(path)}
        except FileNotFoundError:
            keys = {}
        before = dict(keys)
        yield keys
        if keys != before:
            _replace(path, keys.values())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A lock on the folder itself: it leaves no file, and the kernel takes it back."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, keys: Iterable[ApiKey]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(render_keys(keys))
            file.flush()
            os.fsync(handle)
        with contextlib.suppress(FileNotFoundError, PermissionError):
            owner = path.stat()
            os.chown(name, owner.st_uid, owner.st_gid)  # root may write what another reads
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return one_line(error)
