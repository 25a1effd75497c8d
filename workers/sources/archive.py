"""Looks into a .pt2 file before torch does: what it holds must be data that cannot run code.

`torch.export.load` would unpickle custom objects, start compiled AOTInductor libraries, hand
symbolic sizes to sympy, which evaluates them as Python, and call whatever is named as an operator.
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from camserve.errors import UnsupportedModel
from workers.sources.program_operators import only_computes
from workers.sources.refusals import EXPORT_ADVICE, archive_kind, file_kind

__all__ = ["check_archive", "written_by"]

MOST_JSON_BYTES = 200_000_000  # a graph, not weights: the shapes model has 47 kB

_DATA = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/.+|models/[^/]+\.json|extra/.+"
    r"|data/sample_inputs/.+|data/weights/.+|data/constants/(?!custom_obj_|opaque_obj_).+"
    r"|serialized_(exported_program|state_dict|constants|example_inputs)\.(json|pt))"
)
_SYMBOL = re.compile(r"Symbol\('\w+'(, ?\w+=(True|False))*\)")
# left of a size such as 2*FloorDiv(Symbol('s0'), 4) + 1: numbers, operators, sympy's classes
_ARITHMETIC = re.compile(r"(?:[0-9 ()+\-*/,<>=]|\b[A-Z][A-Za-z]*\b|\b[su][0-9]+\b)*")


def check_archive(path: Path, model: str) -> None:
    """Raises UnsupportedModel, with the way out, for all but a plain torch.export program."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _check_names(names, path.name, model)
            _check_beginning(archive, path.name, model)
            for name in names:
                if name.endswith(".json"):
                    _check_program(archive, name, path.name, model)
    except zipfile.BadZipFile:
        kind = file_kind(path) or "not a torch.export program"
        raise UnsupportedModel(
            f"model {model!r}: {path.name!r} is {kind}; {EXPORT_ADVICE}"
        ) from None


def written_by(path: Path) -> str:
    """Who wrote a program, as far as it says: `torch 2.13.0 (archive version 0, schema 8.20)`."""
    said = []
    torch_version = "an unknown torch"
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2] == "archive_version":
                said.append(f"archive version {archive.read(name)[:20].decode(errors='replace')}")
            elif re.search(r"(^|/)models/[^/]+\.json$", name):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    program = json.loads(archive.read(name))
                    schema = program["schema_version"]
                    said.append(f"schema {int(schema['major'])}.{int(schema['minor'])}")
                    torch_version = f"torch {str(program['torch_version'])[:40]}"
    return f"{torch_version} ({', '.join(sorted(said))})" if said else torch_version


def _check_names(names: list[str], file: str, model: str) -> None:
    if kind := archive_kind(names):
        raise UnsupportedModel(f"model {model!r}: {file!r} is {kind}; {EXPORT_ADVICE}")
    if len(set(names)) < len(names):
        raise UnsupportedModel(f"model {model!r}: {file!r} holds two entries of the same name")
    for name in names:
        inner = name.partition("/")[2]  # all entries lie in one folder, in older files in none
        if not (_DATA.fullmatch(inner) or _DATA.fullmatch(name)):
            raise UnsupportedModel(
                f"model {model!r}: {file!r} holds {name!r}, which can run code (a compiled or "
                f"custom object) and is never opened; {EXPORT_ADVICE}"
            )


def _check_beginning(archive: zipfile.ZipFile, file: str, model: str) -> None:
    """Behind other bytes Python and torch would find different entries in the same file."""
    if min((entry.header_offset for entry in archive.infolist()), default=0):
        raise UnsupportedModel(
            f"model {model!r}: {file!r} does not begin with its first entry; {EXPORT_ADVICE}"
        )


def _check_program(archive: zipfile.ZipFile, name: str, file: str, model: str) -> None:
    if archive.getinfo(name).file_size > MOST_JSON_BYTES:
        raise UnsupportedModel(f"model {model!r}: {name!r} in {file!r} is too large to check")
    try:
        program = json.loads(archive.read(name))
    except (ValueError, RecursionError):
        raise UnsupportedModel(
            f"model {model!r}: {name!r} in {file!r} is damaged; {EXPORT_ADVICE}"
        ) from None
    for expression in map(str, _values(program, "expr_str")):  # torch gives them to sympy
        if not _ARITHMETIC.fullmatch(_SYMBOL.sub("", expression)):
            raise UnsupportedModel(
                f"model {model!r}: {file!r} has a symbolic size that is not plain arithmetic, and "
                f"would be run as code; {EXPORT_ADVICE}"
            )
    for operator in _values(program, "target", "as_operator"):
        if not only_computes(operator):
            raise UnsupportedModel(
                f"model {model!r}: {file!r} uses {str(operator)[:100]!r}, which is none of torch "
                f"{torch.__version__}'s own operators that only compute: export the network "
                f"without it; {EXPORT_ADVICE}"
            )


def _values(program: Any, *keys: str) -> Iterator[Any]:
    """All that stands under one of the keys, in graphs within graphs too."""
    unseen = [program]
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in keys if key in value)
            unseen += value.values()
        elif isinstance(value, list):
            unseen += value
