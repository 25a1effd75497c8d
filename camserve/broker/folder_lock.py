"""A lock on a folder that the kernel takes back when its owner dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["FolderLock"]


class FolderLock:
    """An exclusive flock on one file, which holds the owner's pid for people to read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        return self._handle is not None

    def acquire(self) -> int | None:
        """Takes the lock. Returns None, or without waiting the pid of the owner (0 if unknown)."""
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(handle, 32).strip()
                os.close(handle)
                return int(owner) if owner.isdigit() else 0
            if self._is_current(handle):
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                self._handle = handle
                return None
            os.close(handle)  # its last owner removed the file in between

    def release(self) -> None:
        """Gives the lock back and removes its file."""
        if self._handle is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._path.stat())
        except FileNotFoundError:
            return False
