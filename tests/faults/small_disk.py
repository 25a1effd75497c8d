"""A disk that can be filled: the folder of a scene's Redis, where this process may mount one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SmallDisk"]

SIZE = "64m"
PORTION = bytes(1 << 20)


class SmallDisk:
    """A tmpfs over `folder`, from `mount` to `unmount`; `is_mounted` says whether there is one."""

    def __init__(self, folder: Path, *, wanted: bool = True) -> None:
        self.is_mounted = False
        self._folder = folder
        self._wanted = wanted

    def mount(self) -> None:
        """Does nothing where it is not wanted, or takes more rights than this process has."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._wanted:
            return
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            options = ("-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs")
            subprocess.run(["mount", *options, self._folder], check=True, capture_output=True)
            self.is_mounted = True

    def unmount(self) -> None:
        if self.is_mounted:
            # lazily: it goes when the last file in it is closed
            subprocess.run(["umount", "--lazy", self._folder], check=True)
            self.is_mounted = False

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is left on it."""
        filler = self._folder / "filler"
        try:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                for size in (len(PORTION), 1 << 12, 1):
                    with contextlib.suppress(OSError):
                        while file.write(PORTION[:size]) == size:
                            pass
            yield
        finally:
            filler.unlink()
