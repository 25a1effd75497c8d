"""The functions of the language: a closed list. There are no other names but `x`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

__all__ = ["CONSTANT", "FUNCTIONS", "Works"]


class Works(StrEnum):
    """What a function does with the shape of its argument."""

    ON_EACH = "on each number by itself: the shape stays; takes no axis"
    OVER_ALL = "over everything, giving one number; over one axis if that is given"
    ALONG_CLASSES = "along axis 0, the classes; along another axis if that is given"


FUNCTIONS: Mapping[str, Works] = MappingProxyType(
    {
        "sum": Works.OVER_ALL,
        "mean": Works.OVER_ALL,
        "max": Works.OVER_ALL,
        "min": Works.OVER_ALL,
        "norm": Works.OVER_ALL,
        "softmax": Works.ALONG_CLASSES,
        "logsumexp": Works.ALONG_CLASSES,
        "argmax": Works.ALONG_CLASSES,
        "abs": Works.ON_EACH,
        "exp": Works.ON_EACH,
        "log": Works.ON_EACH,
        "sqrt": Works.ON_EACH,
        "relu": Works.ON_EACH,
        "sigmoid": Works.ON_EACH,
    }
)

CONSTANT = frozenset({"argmax"})
"""Functions whose value jumps, so that no gradient comes through them."""
