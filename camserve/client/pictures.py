"""A picture as the service drew it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

__all__ = ["Picture"]


class Picture(bytes):
    """The bytes of a picture file. A notebook shows it."""

    media_type: str

    def __new__(cls, data: bytes, media_type: str) -> Self:
        made = super().__new__(cls, data)
        made.media_type = media_type
        return made

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file; returns its path."""
        where = Path(path)
        where.write_bytes(self)
        return where

    def _repr_mimebundle_(self, **_: object) -> dict[str, bytes]:
        return {self.media_type: bytes(self)}
