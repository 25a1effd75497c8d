"""`export:model.pt2`: a program written by torch.export. Data, not code."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.export.graph_signature import InputKind, TensorArgument

from camserve.errors import ModelUnavailable, UnsupportedModel
from workers.repository import Entry
from workers.sources.archive import check_archive
from workers.sources.loaded import Loaded

__all__ = ["load_export"]


def load_export(entry: Entry) -> Loaded:
    """Load and unflatten: module names and hooks live on (`ExportedProgram.module()` is flat)."""
    path = entry.path(entry.reference)
    if not path.is_file():
        raise ModelUnavailable(f"model {entry.name!r}: the file {entry.reference!r} is missing")
    check_archive(path, entry.name)
    try:
        with _never_unpickle(), warnings.catch_warnings():
            # torch 2.13 warns of its own deprecated pytree classes while it copies the program
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.load(path)
            module = torch.export.unflatten(program)
    except Exception as error:
        raise UnsupportedModel(
            f"model {entry.name!r}: torch {torch.__version__} cannot read {entry.reference!r} "
            f"({type(error).__name__}): write it again with torch.export.save and this torch"
        ) from error
    shape = _input_shape(program)
    if shape and shape[0] not in (1, None):
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} was exported for batches of exactly "
            f"{shape[0]}; export it with dynamic_shapes={{0: torch.export.Dim.AUTO}} for its input"
        )
    if len(shape) not in (0, 4):
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} takes inputs of {len(shape)} dimensions; "
            "camserve explains models of pictures, (batch, channels, height, width)"
        )
    return Loaded(module, _input_fields(shape))


@contextlib.contextmanager
def _never_unpickle() -> Iterator[None]:
    """torch.export.load reads some entries with weights_only=False: this overrules it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _input_shape(program: torch.export.ExportedProgram) -> tuple[int | None, ...]:
    """Shape of the first input, None for a size that is not fixed; () if it is no tensor."""
    names = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument)
    }
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            return tuple(size if isinstance(size, int) else None for size in node.meta["val"].shape)
    return ()


def _input_fields(shape: tuple[int | None, ...]) -> dict[str, Any]:
    """Size and channels of an image program, as far as the program fixes them."""
    if len(shape) != 4:
        return {}
    fields: dict[str, Any] = {"height": shape[2], "width": shape[3]}
    if shape[1] == 1:
        fields["colors"] = "L"
    return {name: value for name, value in fields.items() if value is not None}
