"""Reads an ONNX file: checked, its outside data from inside the folder, functions written out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from camserve.errors import InvalidCard, ModelUnavailable, UnsupportedModel, one_line
from workers.repository import Entry
from workers.sources.onnx.functions import STANDARD, nodes_of, written_out
from workers.sources.refusals import EXPORT_ADVICE, refuse_other_formats

__all__ = ["read_document"]


def read_document(entry: Entry, known: frozenset[str]) -> Any:
    """The file's ModelProto, made of standard operators only, those of `known` where possible.

    Raises UnsupportedModel for what is no ONNX file or holds operators of other domains,
    ModelUnavailable for a missing file, InvalidCard for data outside the model's folder.
    """
    path = entry.path(entry.reference)
    if not path.is_file():
        raise ModelUnavailable(f"model {entry.name!r}: the file {entry.reference!r} is missing")
    refuse_other_formats(path, entry.name)
    onnx = _library(entry)
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own errors, which other versions name otherwise
        raise _no_onnx(entry, error) from error
    if not model.graph.node:
        raise _no_onnx(entry, ValueError("it holds no operators"))
    for output in model.graph.output:  # tf2onnx leaves out a shape that it does not know
        if not output.type.tensor_type.HasField("shape"):
            output.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(_without_outside_data(model, onnx))
        model = written_out(model, known, onnx)
    except Exception as error:  # C++ raises errors of its own kinds
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} is not a valid ONNX model: "
            f"{one_line(error)}; write it again, and check it with onnx.checker.check_model"
        ) from error
    _refuse_other_domains(model, entry)
    _read_outside_data(model, entry, onnx)  # last: a message of more than 2 GB cannot be checked
    return model


def _library(entry: Entry) -> Any:
    try:
        import onnx  # noqa: PLC0415 - optional
        import onnx.checker  # noqa: PLC0415
        import onnx.inliner  # noqa: PLC0415
    except ImportError as error:
        raise ModelUnavailable(
            f"model {entry.name!r} needs the package onnx: pip install 'camserve[onnx]'"
        ) from error
    return onnx


def _no_onnx(entry: Entry, error: Exception) -> UnsupportedModel:
    return UnsupportedModel(
        f"model {entry.name!r}: {entry.reference!r} is not an ONNX file, or a damaged one "
        f"({one_line(error)}); write it again"
    )


def _outside(model: Any, onnx: Any) -> list[Any]:
    """Tensors whose numbers lie in files beside the model (`model.onnx.data`)."""
    helper = onnx.external_data_helper
    tensors = helper._get_all_tensors(model)  # noqa: SLF001 - as the library's own load does
    return [tensor for tensor in tensors if helper.uses_external_data(tensor)]


def _without_outside_data(model: Any, onnx: Any) -> Any:
    """The model with empty tensors for those: the checks would look for the files themselves."""
    if not _outside(model, onnx):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in _outside(copy, onnx):
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.dims[:] = [0]
    return copy


def _read_outside_data(model: Any, entry: Entry, onnx: Any) -> None:
    for tensor in _outside(model, onnx):
        place = {item.key: item.value for item in tensor.external_data}.get("location", "")
        path = entry.path(str(Path(entry.reference).parent / place))  # InvalidCard for one outside
        if not path.is_file():
            raise ModelUnavailable(
                f"model {entry.name!r}: {entry.reference!r} keeps weights in the file {place!r}, "
                "which is missing: copy it into the folder"
            )
        if not path.resolve().is_relative_to(entry.folder.resolve()):  # the file says where
            raise InvalidCard(
                f"model {entry.name!r}: the weights {place!r} are a link that leads out of the "
                "model's folder: put the file itself there"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of keys that the library does not know
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:
            raise UnsupportedModel(
                f"model {entry.name!r}: the weights {place!r} do not fit {entry.reference!r}: "
                f"{one_line(error)}; copy both files again"
            ) from error


def _refuse_other_domains(model: Any, entry: Entry) -> None:
    for node in nodes_of(model.graph):
        if node.domain not in STANDARD:
            raise UnsupportedModel(
                f"model {entry.name!r}: {entry.reference!r} uses the operator {node.op_type!r} of "
                f"{node.domain!r}, which is not ONNX's own: export the network without the "
                f"optimisations of one runtime, or {EXPORT_ADVICE}"
            )
