"""Dimension labels: one letter for each axis of a tensor, as in MATLAB's `Format`.

    B batch   C channel   S space   T time (or tokens)   U unspecified

`SSC` is a picture (height, width, channels), `BCSS` a batch of them as PyTorch has it, `BCSSS`
volumes, `BCT` or `BTC` sequences, `BTCSS` or `BCTSS` videos. Letters that occur more than once
(S, U) keep their order.
"""

from __future__ import annotations

import re

from camserve.errors import InvalidRequest

__all__ = [
    "FEATURE_FORMAT",
    "FORMAT",
    "check_format",
    "default_format",
    "permutation",
    "space_and_time",
]

FORMAT = r"^[BCSTU]{1,8}$"
"""What a format looks like; `check_format` says what it must be besides."""

FEATURE_FORMAT = r"^[BCSTU]{2,8}(:[1-9]\d{0,4}(x[1-9]\d{0,4}){0,2})?$"
"""Labels of a layer's output, and for tokens the grid that they are: `BTC:14x14`."""

_DEFAULTS = {3: "BCT", 4: "BCSS", 5: "BCSSS"}


def check_format(labels: str, field: str = "format") -> str:
    """`labels` if they can describe a tensor. Raises InvalidRequest with the remedy."""
    if not re.fullmatch(FORMAT, labels):
        raise InvalidRequest(
            f"{field} {labels!r} is not made of the letters B, C, S, T and U, one for each "
            "dimension: a picture of height x width x channels is SSC",
            field=field,
        )
    for letter in "BCT":
        if labels.count(letter) > 1:
            raise InvalidRequest(f"{field} {labels!r} has {letter} more than once", field=field)
    if labels.count("S") > 3:
        raise InvalidRequest(f"{field} {labels!r} has more than three dimensions S", field=field)
    return labels


def default_format(dimensions: int) -> str | None:
    """The usual format of a model's input of so many dimensions; None if there is no usual one."""
    return _DEFAULTS.get(dimensions)


def space_and_time(labels: str) -> str:
    """The letters S and T of `labels`, in order: `TSS` for `BTCSS`."""
    return "".join(letter for letter in labels if letter in "ST")


def permutation(source: str, target: str) -> tuple[int, ...]:
    """The axes of `source` in the order of `target`, as `numpy.transpose` takes them.

    Raises InvalidRequest unless both have the same letters.
    """
    if sorted(source) != sorted(target):
        raise InvalidRequest(
            f"dimensions {source!r} cannot be arranged as {target!r}: both must have the same "
            "letters"
        )
    axes: dict[str, list[int]] = {}
    for axis, letter in enumerate(source):
        axes.setdefault(letter, []).append(axis)
    return tuple(axes[letter].pop(0) for letter in target)
