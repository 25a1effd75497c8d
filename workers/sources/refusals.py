"""Files of other kinds, known by their first bytes and entries, refused with the way out."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from camserve.errors import UnsupportedModel

__all__ = ["EXPORT_ADVICE", "archive_kind", "file_kind", "refuse_other_formats"]

EXPORT_ADVICE = (
    "write it with torch.export: "
    "`torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')`"
)
_PICKLE = b"\x80"  # the first byte of all protocols since the second
_TORCH_SCRIPT = "a TorchScript file, whose submodules cannot be hooked"
_PICKLED = "a pickled module or state dict, which camserve never opens because a pickle runs code"


def refuse_other_formats(path: Path, model: str) -> None:
    """Raises UnsupportedModel for a TorchScript file, and for a pickled module or state dict."""
    if kind := file_kind(path):
        raise UnsupportedModel(f"model {model!r}: {path.name!r} is {kind}; {EXPORT_ADVICE}")


def file_kind(path: Path) -> str | None:
    """What a file is, where it is one that camserve never opens."""
    if zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            return archive_kind(archive.namelist())
        return None
    with path.open("rb") as stream:
        return _PICKLED if stream.read(1) == _PICKLE else None


def archive_kind(names: Sequence[str]) -> str | None:
    """The same of a zip archive, by its entries' names."""
    if any("/code/" in name for name in names):
        return _TORCH_SCRIPT
    return _PICKLED if any(name.endswith("data.pkl") for name in names) else None
