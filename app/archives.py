"""An explanation as one .zip file: its JSON and all its maps. Made in a thread."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camserve.maps.encode import npy_parts

__all__ = ["MANIFEST", "archive", "map_file"]

MANIFEST: Final = "manifest.json"


def map_file(number: int) -> str:
    """Name of the map of `results[number]` inside the archive."""
    return f"maps/{number}.npy"


def archive(manifest: bytes, maps: Sequence[NDArray[np.floating[Any]]]) -> bytes:
    """`manifest.json`, the explanation, and `maps/<n>.npy`, the map of `results[n]`.

    Stored, not compressed: smooth maps of floats shrink by a few per cent at great cost. The time
    stamps are those of the format's beginning, so that equal explanations are equal files.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as out:
        out.writestr(_member(MANIFEST), manifest)
        for number, values in enumerate(maps):
            with out.open(_member(map_file(number)), "w") as member:
                for part in npy_parts([values]):
                    member.write(part)
    return file.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o644 << 16  # else unpacked files could not be read
    return member
