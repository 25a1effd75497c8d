"""Which files a run over many explains, and under which names their results are kept."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["PICTURE_FORMS", "Source", "find_sources"]

PICTURE_FORMS: Final = ("png", "jpeg", "webp")
_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy"}
)


class Source(NamedTuple):
    """A file to explain. `name`: its path in the folder, with / between, and that of its results in
    the folder of results."""

    path: Path
    name: str


def find_sources(chosen: argparse.Namespace) -> list[Source]:
    """All files that are asked for, in the order of their names. Raises ValueError, OSError."""
    paths = [Path(text) for text in chosen.inputs]
    if len(paths) == 1 and paths[0].is_dir():
        return _of_folder(paths[0], Path(chosen.out), chosen.pattern)
    sources = [Source(path, path.name) for path in paths]
    seen: dict[str, Path] = {}
    for source in sources:
        if source.name in seen:
            raise ValueError(
                f"{seen[source.name]} and {source.path} have one name, and would have one result: "
                "explain their folder"
            )
        if not source.path.is_file():
            what = "a folder stands alone" if source.path.is_dir() else "there is no such file"
            raise FileNotFoundError(2, what, str(source.path))
        seen[source.name] = source.path
    return sources


def _of_folder(folder: Path, out: Path, patterns: list[str]) -> list[Source]:
    if out.resolve() == folder.resolve():
        raise ValueError("--out is the folder of the inputs: the results need one of their own")
    found = [
        Source(path, path.relative_to(folder).as_posix()) for path in _walk(folder, out.resolve())
    ]
    wanted = sorted((one for one in found if _matches(one.name, patterns)), key=lambda s: s.name)
    if not wanted:
        what = f"that match {' or '.join(patterns)}" if patterns else "that are pictures or arrays"
        raise ValueError(f"{folder}: there are no files {what}")
    return wanted


def _walk(folder: Path, out: Path) -> Iterator[Path]:
    """All files, but hidden ones, and those of the results. Links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise error

    for where, folders, files in os.walk(folder, onerror=refuse):
        here = Path(where)
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() != out]
        yield from (here / name for name in files if name[0] != ".")


def _matches(name: str, patterns: list[str]) -> bool:
    if not patterns:
        return Path(name).suffix.lower() in _SUFFIXES
    return any(fnmatch(name, one) or fnmatch(Path(name).name, one) for one in patterns)
