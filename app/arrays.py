"""Arrays as clients send them: .npy files and nested lists, checked before they are believed."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from camserve.errors import InvalidInput

__all__ = ["MAX_DIMENSIONS", "as_finite_float32", "check_finite", "flattened", "read_array"]

_HEADERS: Final = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_ONE_HEADER: Final = Lock()
MAX_DIMENSIONS: Final = 8  # no model takes as many
_NUMBERS: Final = frozenset({int, float, bool})


def read_array(data: bytes | list[Any]) -> NDArray[Any]:
    """The array in `data`, a .npy file or nested lists of numbers.

    Never unpickles, and allocates nothing on the word of a header. Raises InvalidInput.
    """
    return _from_lists(data) if isinstance(data, list) else _from_npy(data)


def as_finite_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """In C order. Raises InvalidInput if a number is not finite in float32."""
    with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite
        values = np.ascontiguousarray(array, dtype=np.float32)
    check_finite(values)
    return values


def check_finite(values: NDArray[np.float32]) -> None:
    """Raises InvalidInput, with the first place, unless all are."""
    finite = np.isfinite(values)
    if not finite.all():
        place = [int(index) for index in np.unravel_index(finite.argmin(), values.shape)]
        raise InvalidInput(
            f"the tensor holds NaN or infinite values, the first at {place}: replace them",
            position=place,
        )


def _from_npy(data: bytes) -> NDArray[Any]:
    file = io.BytesIO(data)
    try:
        read_header = _HEADERS[npy.read_magic(file)]
        # numpy has Python parse it, whose parser counts for all threads at once (3.11 does): a
        # garbage collection at a bad moment lets another one in, and a good file is a SystemError
        with _ONE_HEADER:
            found, fortran_order, dtype = read_header(file)
    except Exception as error:  # its parser is Python's own, and raises what that raises
        raise InvalidInput(
            f"the .npy file has no readable header ({type(error).__name__}): write it with "
            "numpy.save"
        ) from error
    if dtype.kind not in "fiub":
        raise InvalidInput(f"the tensor must hold real numbers, not {dtype}")
    _check_shape(found)
    count, start = math.prod(found), file.tell()
    if len(data) - start != count * dtype.itemsize:
        raise InvalidInput(
            f"the .npy file holds {len(data) - start} bytes of numbers where its header announces "
            f"{count * dtype.itemsize}: send the whole file"
        )
    flat = np.frombuffer(data, dtype, count, start)
    return flat.reshape(found, order="F" if fortran_order else "C")


def _check_shape(found: Sequence[int]) -> None:
    if len(found) > MAX_DIMENSIONS or min(found, default=1) < 1:
        raise InvalidInput(
            f"the tensor's shape is {list(found)}: no model takes that", shape=list(found)
        )


def flattened(data: list[Any]) -> tuple[list[Any], tuple[int, ...]]:
    """The items of regular nested lists, row by row, and the shape. Raises InvalidInput.

    Level by level, in the loops of C: there may be millions of lists.
    """
    shape: list[int] = []
    items: list[Any] = [data]
    while isinstance(items[0], list):
        shape.append(len(items[0]))
        _check_shape(shape)
        if set(map(type, items)) != {list} or set(map(len, items)) != {shape[-1]}:
            wrong = (not isinstance(one, list) or len(one) != shape[-1] for one in items)
            raise InvalidInput(
                f"the tensor is not regular: {_place(wrong, shape[:-1])} must be a list of "
                f"{shape[-1]}"
            )
        items = list(chain.from_iterable(items))
    return items, tuple(shape)


def _from_lists(data: list[Any]) -> NDArray[np.float32]:
    """numpy itself would take strings for numbers, and make room for the longest of them."""
    items, shape = flattened(data)
    if not set(map(type, items)) <= _NUMBERS:
        wrong = (type(one) not in _NUMBERS for one in items)
        raise InvalidInput(f"the tensor must hold numbers: {_place(wrong, shape)} is not one")
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        return np.array(items, dtype=np.float32).reshape(shape)


def _place(wrong: Iterable[bool], shape: Sequence[int]) -> str:
    """Of the first wrong item, as in `data[2][3]`."""
    number = next(index for index, is_wrong in enumerate(wrong) if is_wrong)
    return "data" + "".join(f"[{index}]" for index in np.unravel_index(number, shape))
