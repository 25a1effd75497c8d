"""Tensors as clients send them: .npy files and nested lists, checked before they are believed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from camserve.errors import InvalidInput

__all__ = ["read_tensor"]

_HEADERS: Final = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_MAX_DIMENSIONS: Final = 8  # to be told in an error; no model takes as many


def read_tensor(data: bytes | list[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The tensor in `data`, of `shape` (a leading batch axis of 1 is dropped), float32, finite.

    Never unpickles, and allocates nothing on the word of a header. Raises InvalidInput.
    """
    values = _from_lists(data, shape) if isinstance(data, list) else _from_npy(data, shape)
    with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite
        tensor = np.ascontiguousarray(values, dtype=np.float32).reshape(shape)
    if not np.isfinite(tensor).all():
        raise InvalidInput("the tensor holds NaN or infinite values")
    return tensor


def _check_shape(found: Sequence[int], shape: tuple[int, ...]) -> None:
    if tuple(found) not in {shape, (1, *shape)}:
        raise InvalidInput(
            f"the tensor's shape is {list(found)}; the model takes {list(shape)} "
            "(channels, height, width)",
            shape=list(found),
            expected=list(shape),
        )


def _from_npy(data: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    file = io.BytesIO(data)
    try:
        read_header = _HEADERS[npy.read_magic(file)]
        found, fortran_order, dtype = read_header(file)
    except Exception as error:  # its parser is Python's own, and raises what that raises
        raise InvalidInput(
            f"the .npy file has no readable header ({type(error).__name__}): write it with "
            "numpy.save"
        ) from error
    if dtype.kind not in "fiub":
        raise InvalidInput(f"the tensor must hold real numbers, not {dtype}")
    _check_shape(found, shape)
    count, start = int(np.prod(found)), file.tell()
    if len(data) - start != count * dtype.itemsize:
        raise InvalidInput(
            f"the .npy file holds {len(data) - start} bytes of numbers where its header announces "
            f"{count * dtype.itemsize}: send the whole file"
        )
    flat = np.frombuffer(data, dtype, count, start)
    return flat.reshape(found, order="F" if fortran_order else "C")


def _from_lists(data: list[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    found: list[int] = []
    first: Any = data
    while isinstance(first, list) and len(found) < _MAX_DIMENSIONS:
        found.append(len(first))
        first = first[0] if first else None
    _check_shape(found, shape)
    _check_rows(data, found, "data")
    with np.errstate(over="ignore"):
        return np.array(data, dtype=np.float32)


def _check_rows(rows: Any, shape: Sequence[int], where: str) -> None:
    """Raises InvalidInput unless `rows` are lists of numbers, nested to exactly `shape`.

    numpy itself would take strings for numbers, and make room for the longest of them.
    """
    if not isinstance(rows, list) or len(rows) != shape[0]:
        raise InvalidInput(f"the tensor is not regular: {where} must be a list of {shape[0]}")
    if len(shape) > 1:
        for index, row in enumerate(rows):
            _check_rows(row, shape[1:], f"{where}[{index}]")
    elif not set(map(type, rows)) <= {int, float, bool}:
        raise InvalidInput(f"the tensor must hold numbers: {where} holds something else")
