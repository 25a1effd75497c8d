"""Where the results of one input go: files by their suffix, or standard output."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["STDOUT", "Output", "output_of", "write_atomically"]

STDOUT: Final = Path("-")
_FORMS: Final = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".npy": "npy",
    ".json": "json",
    ".zip": "zip",
}


class Output(NamedTuple):
    """A file and what goes into it."""

    path: Path
    form: str

    def write(self, data: bytes, suffix: str = "") -> Path:
        """Write the file; `suffix` goes behind its stem, where there are several."""
        if self.path is STDOUT:
            if sys.stdout.isatty() and self.form != "json":
                raise ValueError("a terminal shows no pictures and arrays: send -o - into a pipe")
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return self.path
        path = self.path.with_stem(self.path.stem + suffix)
        write_atomically(path, data)
        return path


def output_of(text: str, form: str) -> Output:
    """form: of standard output. Raises ValueError for a suffix that says nothing, and
    FileNotFoundError for a folder that is not there."""
    if text == "-":
        return Output(STDOUT, form)
    path = Path(text)
    known = _FORMS.get(path.suffix.lower())
    if known is None:
        raise ValueError(f"{text}: the suffix says what to write: {', '.join(_FORMS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "there is no such folder", str(path.parent))
    return Output(path, known)


def write_atomically(path: Path, data: bytes) -> None:
    """The whole file, or none, also if the power fails: it is written beside, and put into its
    place."""
    beside = path.with_name(f".camserve-{secrets.token_hex(8)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
