"""`export:model.pt2`: a program written by torch.export. Data, not code."""

from __future__ import annotations

import warnings
import zipfile
from typing import Any

import torch
from torch.export.graph_signature import InputKind, TensorArgument

from camserve.errors import ModelUnavailable, UnsupportedModel
from workers.repository import Entry
from workers.sources.loaded import Loaded

__all__ = ["load_export"]


def load_export(entry: Entry) -> Loaded:
    """Load and unflatten: module names and hooks live on (`ExportedProgram.module()` is flat)."""
    path = entry.path(entry.reference)
    if not path.is_file():
        raise ModelUnavailable(f"model {entry.name!r}: the file {entry.reference!r} is missing")
    _refuse_other_formats(entry)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns of its own deprecated pytree classes while it copies the program
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.load(path)
            module = torch.export.unflatten(program)
    except Exception as error:
        raise UnsupportedModel(
            f"model {entry.name!r}: torch {torch.__version__} cannot read {entry.reference!r} "
            f"({type(error).__name__}): write it again with torch.export.save and this torch"
        ) from error
    return Loaded(module, _input_fields(program))


def _refuse_other_formats(entry: Entry) -> None:
    advice = (
        "write it with torch.export: "
        "`torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')`"
    )
    try:
        with zipfile.ZipFile(entry.path(entry.reference)) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} is not a torch.export program; {advice}"
        ) from None
    if any("/code/" in name for name in names):
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} is a TorchScript file, whose submodules "
            f"cannot be hooked; {advice}"
        )
    if any(name.endswith("data.pkl") for name in names):
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} is a pickled module, which camserve never "
            f"opens because a pickle runs code; {advice}"
        )


def _input_fields(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """Size and channels of an image program, as far as the program fixes them."""
    names = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    }
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            shape = node.meta["val"].shape
            if len(shape) == 4:
                known = [int(size) if isinstance(size, int) else None for size in shape]
                fields: dict[str, Any] = {"height": known[2], "width": known[3]}
                if known[1] == 1:
                    fields["colors"] = "L"
                return {name: value for name, value in fields.items() if value is not None}
    return {}
