"""Where the map of an array lies: on the array's own space and time, in the client's order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from camserve.errors import MalformedRequest
from camserve.maps.areas import Cells
from camserve.maps.geometry import Geometry
from camserve.maps.resample import FloatArray
from camserve.maps.sampler import Sampler

__all__ = ["Grid", "geometry_from_json", "shrunk_to"]


@dataclass(frozen=True)
class Grid:
    """Space and time of an array.

    letters: S and T of the model's input, in its order, which signed maps have. size: of each.
    order: the axes of the model's order in the order of what the client sent, which answers have.
    """

    letters: str
    size: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def sent_size(self) -> tuple[int, ...]:
        """`size` in the client's order."""
        return tuple(self.size[axis] for axis in self.order)

    def arranged(self, values: FloatArray) -> FloatArray:
        """A map in the model's order as the client's."""
        return np.transpose(values, self.order)

    def sampler(self, sent_size: tuple[int, ...] | None = None) -> Sampler:
        """Brings a map to that size, given in the client's order; by default to the array's own."""
        if sent_size is None:
            return Sampler.whole(self.size)
        sizes = dict(zip(self.order, sent_size, strict=True))
        return Sampler.whole([sizes[axis] for axis in range(len(self.size))])

    def scaled(self, long_side: int) -> tuple[int, ...]:
        """The array's shape with that many cells on its longest axis, in the client's order."""
        factor = long_side / max(self.size)
        return tuple(max(1, round(side * factor)) for side in self.sent_size)

    def within(self, cells: float) -> tuple[int, ...]:
        """The array's size, or a smaller one of at most so many cells, in the client's order."""
        return shrunk_to(self.sent_size, cells)

    def cells(self) -> list[Cells]:
        """Where the cells of the model's input lie on what the client sent: on themselves."""
        place = {axis: sent for sent, axis in enumerate(self.order)}
        return [
            Cells(place[axis], np.arange(side + 1, dtype=np.float64))
            for axis, side in enumerate(self.size)
        ]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready members."""
        return {
            "kind": "grid",
            "letters": self.letters,
            "size": list(self.size),
            "order": list(self.order),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Grid:
        """The inverse of `to_json`. Raises MalformedRequest when a member is amiss."""
        try:
            letters, size, order = str(data["letters"]), tuple(data["size"]), tuple(data["order"])
            fits = len(letters) == len(size) == len(order) and min(size) >= 1
            fits = fits and sorted(order) == list(range(len(size)))
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedRequest(f"not a geometry: {error!r}") from error
        if not fits:
            raise MalformedRequest(f"not a geometry: {dict(data)}")
        return cls(letters, size, order)


def shrunk_to(size: tuple[int, ...], cells: float) -> tuple[int, ...]:
    """The size, or a smaller one of about its shape that has at most so many cells, at least one.

    All axes shrink alike, but none below 1.
    """
    fitting, scale = size, 1.0
    while (total := math.prod(fitting)) > max(cells, 1.0):
        shrinking = sum(side > 1 for side in fitting)
        scale *= min((cells / total) ** (1 / shrinking), 0.999)
        fitting = tuple(max(1, int(side * scale)) for side in size)
    return fitting


def geometry_from_json(data: Mapping[str, Any]) -> Geometry | Grid:
    """Whichever of the two was written. Raises MalformedRequest."""
    return Grid.from_json(data) if data.get("kind") == "grid" else Geometry.from_json(data)
