"""Arrays of any order of dimensions, brought to the order that a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camserve.contracts.input_specs import InputSpec
from camserve.dimensions import check_format, permutation, space_and_time
from camserve.errors import InvalidInput, InvalidRequest, TooLarge

__all__ = ["Arranged", "arranged"]


@dataclass(frozen=True)
class Arranged:
    """One input. array: in the model's order, without B. order: its axes S and T in the client's
    order, as `numpy.transpose` takes them."""

    array: NDArray[Any]
    order: tuple[int, ...]


def arranged(array: NDArray[Any], spec: InputSpec, labels: str | None, most: int) -> list[Arranged]:
    """The inputs in an array: one, or one for each position of its dimension B. Views, no copies.

    labels: of the array's dimensions; by default the model's own without B. A leading dimension of
    1 is then taken for a B, and the channel dimension of a model of one channel may be left out.
    Raises InvalidInput or InvalidRequest, with the shape that fits, and TooLarge for more than
    `most` inputs.
    """
    wanted = spec.format.replace("B", "")
    known = _usual_labels(array, spec, wanted) if labels is None else check_format(labels)
    if len(known) != array.ndim:
        raise InvalidInput(
            f"format {known!r} labels {len(known)} dimension{'s' if len(known) > 1 else ''}, the "
            f"tensor has {array.ndim}: its shape is {list(array.shape)}",
            shape=list(array.shape),
        )
    if "B" not in known:
        return [_one(array, known, spec, asked=labels)]
    batch = known.index("B")
    if array.shape[batch] > most:
        raise TooLarge(
            f"dimension B of the tensor has {array.shape[batch]} inputs, more than {most}: send "
            "several requests",
            limit=most,
        )
    rows = np.moveaxis(array, batch, 0)
    return [_one(row, known.replace("B", ""), spec, asked=labels) for row in rows]


def _usual_labels(array: NDArray[Any], spec: InputSpec, wanted: str) -> str:
    """What an array is taken for whose dimensions nobody labelled."""
    if array.ndim == len(wanted) + 1 and len(array) == 1:
        return f"B{wanted}"
    if array.ndim == len(wanted) - 1 and "C" in wanted and spec.channels == 1:
        return wanted.replace("C", "")
    if array.ndim != len(wanted):
        raise _misfit(array.shape, wanted, spec)
    return wanted


def _one(array: NDArray[Any], labels: str, spec: InputSpec, *, asked: str | None) -> Arranged:
    """labels: of this input, without B. asked: those that the client gave to the whole array."""
    wanted, sent, read = spec.format.replace("B", ""), array.shape, labels
    if "C" in wanted and "C" not in labels and spec.channels == 1:
        array, labels = array[None], f"C{labels}"
    elif "C" in labels and "C" not in wanted and array.shape[labels.index("C")] == 1:
        array, labels = array.squeeze(labels.index("C")), labels.replace("C", "")
    try:
        axes = permutation(labels, wanted)
    except InvalidRequest as error:
        raise InvalidInput(
            f"a tensor of dimensions {labels or 'B'} is none for this model: its inputs have "
            f"{wanted} ({_meaning(wanted)}). Say with format which dimension is which, in the "
            "tensor's own order",
            field="format",
            expected=wanted,
        ) from error
    array = array.transpose(axes)
    if any(size not in (0, found) for size, found in zip(spec.shape, array.shape, strict=True)):
        if asked is None:
            raise _misfit(sent, wanted, spec)
        raise _misread(sent, read, asked, wanted, spec)
    return Arranged(array, permutation(space_and_time(wanted), space_and_time(labels)))


def _misfit(found: tuple[int, ...], wanted: str, spec: InputSpec) -> InvalidInput:
    return InvalidInput(
        f"the tensor's shape is {list(found)}; the model takes {_taken(wanted, spec)}, format "
        f"{wanted}. Of another order, or of several inputs with a B, give the format",
        shape=list(found),
        expected=list(spec.shape),
    )


def _misread(
    found: tuple[int, ...], read: str, asked: str, wanted: str, spec: InputSpec
) -> InvalidInput:
    """Of an input whose dimensions the client labelled."""
    return InvalidInput(
        f"read as format {asked}, the tensor's shape is {list(found)} ({_meaning(read)}); the "
        f"model takes {_taken(wanted, spec)}. Correct format, or leave it out if the dimensions "
        f"come in the model's order, {wanted}",
        field="format",
        shape=list(found),
        expected=list(spec.shape),
    )


def _taken(wanted: str, spec: InputSpec) -> str:
    """`[3, 32, any] (channels, height, width)`."""
    shape = ", ".join("any" if size == 0 else str(size) for size in spec.shape)
    return f"[{shape}] ({_meaning(wanted)})"


def _meaning(labels: str) -> str:
    """`channels, height, width`."""
    spaces = {1: ("space",), 2: ("height", "width")}.get(
        labels.count("S"), ("space 1", "space 2", "space 3")
    )
    space = iter(spaces)
    words = {"C": "channels", "T": "time", "U": "unspecified"}
    return ", ".join(next(space) if letter == "S" else words[letter] for letter in labels)
