"""Tensors of the Open Inference Protocol: numbers and files, in JSON or as bytes behind it."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.arrays import flattened
from app.documents import decoded
from camserve.contracts.open_inference import Datatype
from camserve.errors import InvalidInput, InvalidRequest, MalformedRequest

__all__ = ["DTYPES", "datatype_of", "from_bytes", "from_list", "joined_files"]

# little-endian, as the protocol has them on every machine
DTYPES: Final[dict[Datatype, str]] = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_LENGTH: Final = struct.Struct("<I")
_KINDS: Final[dict[str, tuple[frozenset[type], str]]] = {
    "f": (frozenset({int, float}), "numbers"),
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "whole numbers"),
    "u": (frozenset({int}), "whole numbers"),
}


def datatype_of(dtype: np.dtype[Any]) -> Datatype:
    """The name of a kind of numbers."""
    return next(name for name, known in DTYPES.items() if np.dtype(known) == dtype)


def from_list(
    data: list[Any], shape: Sequence[int], datatype: Datatype, field: str
) -> NDArray[Any] | list[bytes]:
    """The tensor in a JSON list, flat or nested as `shape`; of BYTES the files, from base64.

    Raises InvalidRequest, InvalidInput.
    """
    items, found = flattened(data)
    if found not in ((math.prod(shape),), tuple(shape)):
        raise InvalidRequest(
            f"{field}.data is of shape {list(found)}, and {field}.shape says {list(shape)}: give "
            f"{math.prod(shape)} values, flat or nested as the shape",
            field=f"{field}.data",
        )
    if datatype == "BYTES":
        _check_items(items, frozenset({str}), "strings in base64", field)
        return [decoded(text, f"{field}.data.{index}") for index, text in enumerate(items)]
    if datatype == "BF16":
        raise InvalidRequest(
            f"{field}: BF16 has no form in JSON: send it as binary data, or as FP32",
            field=f"{field}.datatype",
        )
    dtype = np.dtype(DTYPES[datatype])
    _check_items(items, *_KINDS[dtype.kind], field)
    if dtype.kind in "iu":
        _check_range(items, dtype, datatype, field)
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        return np.array(items, dtype=dtype).reshape(shape)


def from_bytes(
    data: bytes, shape: Sequence[int], datatype: Datatype, field: str
) -> NDArray[Any] | list[bytes]:
    """The tensor in the bytes of the binary extension; of BYTES the files, each behind its length.

    Raises MalformedRequest for other than the bytes that such a tensor has.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _files(data, count, field)
    dtype = np.dtype("<u2" if datatype == "BF16" else DTYPES[datatype])
    if len(data) != count * dtype.itemsize:
        raise MalformedRequest(
            f"{field}: {datatype} of shape {list(shape)} takes {count * dtype.itemsize} bytes, and "
            f"binary_data_size is {len(data)}"
        )
    if datatype == "BOOL":
        return np.frombuffer(data, np.uint8).reshape(shape).astype(bool)
    values: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape)
    if datatype == "BF16":  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return values


def joined_files(files: Sequence[bytes]) -> bytes:
    """BYTES of the binary extension: each behind its length in four bytes."""
    return b"".join(part for one in files for part in (_LENGTH.pack(len(one)), one))


def _files(data: bytes, count: int, field: str) -> list[bytes]:
    files: list[bytes] = []
    at = 0
    while at < len(data) and len(files) < count:
        if at + _LENGTH.size > len(data):
            raise _cut_off(field)
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise _cut_off(field)
        if length == 0:
            raise InvalidRequest(f"{field}: element {len(files)} is empty", field=field)
        files.append(data[at : at + length])
        at += length
    if len(files) != count or at != len(data):
        raise MalformedRequest(
            f"{field}: its bytes are not the {count} elements that the shape says, each behind its "
            "length in 4 bytes"
        )
    return files


def _cut_off(field: str) -> MalformedRequest:
    return MalformedRequest(
        f"{field}: an element of BYTES is longer than what is left of binary_data_size: put its "
        "length in front of each, in 4 bytes, least first"
    )


def _check_items(items: list[Any], kinds: frozenset[type], words: str, field: str) -> None:
    if not set(map(type, items)) <= kinds:
        place = next(index for index, one in enumerate(items) if type(one) not in kinds)
        raise InvalidInput(
            f"{field}.data must hold {words}: value {place}, counted row by row, is not",
            position=place,
        )


def _check_range(items: list[int], dtype: np.dtype[Any], datatype: Datatype, field: str) -> None:
    limits = np.iinfo(dtype)
    least, greatest = min(items), max(items)
    if least < limits.min or greatest > limits.max:
        wrong = least if least < limits.min else greatest
        raise InvalidInput(
            f"{field}.data holds {wrong}, and {datatype} has {limits.min} to {limits.max}"
        )
