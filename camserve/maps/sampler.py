"""What carries a feature map over to another grid: the whole of it, or registered to an upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camserve.errors import InvalidRequest
from camserve.maps.resample import FloatArray, Method, axis_samples
from camserve.maps.samples import Samples

__all__ = ["AxisSpan", "Picked", "Sampler"]


@dataclass(frozen=True)
class AxisSpan:
    """How `count` output cells along one axis lie on the axis that the map covers.

    They spread evenly over [start, start + extent), as fractions of the map's axis, so that a map
    of any resolution can be sampled: [0, 1) is the map, what lies outside was never seen. With
    `reverse` the last of them comes first. With `strongest` a map of more cells is sampled several
    times for each output cell, which gets the greatest: a narrow peak is not lost between two.
    """

    count: int
    start: float = 0.0
    extent: float = 1.0
    reverse: bool = False
    strongest: bool = False

    @property
    def window(self) -> slice:
        """The output cells whose centres lie on the map, as a slice (possibly empty)."""
        centres = self.start + (2.0 * np.arange(self.count) + 1.0) * self.extent / (2 * self.count)
        # Centres rise with the index, so those inside are neighbours.
        first, end = (int(i) for i in np.searchsorted(centres, (0.0, 1.0), side="left"))
        return slice(self.count - end, self.count - first) if self.reverse else slice(first, end)

    def sampled(self, values: FloatArray, axis: int, method: Method) -> FloatArray:
        """The cells of `window` of a map, one of whose axes lies along this one."""
        cells = values.shape[axis]
        if self.strongest and cells > self.count:
            times = -(-cells // self.count)
            many = axis_samples(cells, self.count * times, method).of(values, axis)
            shape = (*values.shape[:axis], self.count, times, *values.shape[axis + 1 :])
            greatest: FloatArray = many.reshape(shape).max(axis + 1)
            return greatest
        return self.samples(cells, method).at(self.window).of(values, axis)

    def samples(self, cells: int, method: Method) -> Samples:
        """The samples of a map of `cells` cells, all output cells included."""
        found = axis_samples(
            cells, self.count, method, start=self.start * cells, extent=self.extent * cells
        )
        return found.at(slice(None, None, -1)) if self.reverse else found


@dataclass(frozen=True)
class Picked(AxisSpan):
    """Some of the `of` even cells along an axis, those with the indices `chosen`."""

    of: int = 1
    chosen: tuple[int, ...] = (0,)

    @classmethod
    def among(cls, of: int, chosen: Sequence[int]) -> Picked:
        return cls(len(chosen), of=of, chosen=tuple(chosen))

    @property
    def window(self) -> slice:
        return slice(0, self.count)

    def samples(self, cells: int, method: Method) -> Samples:
        return axis_samples(cells, self.of, method).at(list(self.chosen))


@dataclass(frozen=True)
class Sampler:
    """Resamples the trailing axes of a map onto `size`, in one separable step; zero where unseen.

    `spans` has one entry per axis of the *map*. With `transposed` (two axes only) the map's first
    axis becomes the output's second. `method` None leaves the choice to the convention.
    """

    spans: tuple[AxisSpan, ...]
    method: Method | None = None
    transposed: bool = False

    @classmethod
    def whole(cls, size: Sequence[int], method: Method | None = None) -> Sampler:
        """The plain one: the map covers all of an N-D grid of `size`, such as the model's input."""
        return cls(tuple(AxisSpan(int(count)) for count in size), method)

    def using(self, method: Method) -> Sampler:
        """The same grid, sampled with another method."""
        return replace(self, method=method)

    @property
    def size(self) -> tuple[int, ...]:
        """The shape of the output's trailing axes."""
        counts = tuple(span.count for span in self.spans)
        return counts[::-1] if self.transposed else counts

    @property
    def window(self) -> tuple[slice, ...]:
        """The output cells that the model saw: always a box, one slice per output axis."""
        windows = tuple(span.window for span in self.spans)
        return windows[::-1] if self.transposed else windows

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """`window` as a boolean array of `size`."""
        seen = np.zeros(self.size, dtype=np.bool_)
        seen[self.window] = True
        return seen

    def __call__(self, array: FloatArray) -> FloatArray:
        """`array` (..., *S) sampled to (..., *size), float32 (float64 stays float64).

        With `none` the array comes back as it is, at its own resolution. Raises InvalidRequest
        when no method is set, or when the array has too few axes.
        """
        values = array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
        if self.method == "none":
            return values
        if self.method is None:
            raise InvalidRequest("the sampler has no method: choose one with using()")
        first = values.ndim - len(self.spans)
        if first < 0:
            raise InvalidRequest(f"a map of shape {list(values.shape)} has too few axes to sample")
        if self.transposed:
            values = values.swapaxes(first, first + 1)
        lead = values.shape[:first]
        spans = self.spans[::-1] if self.transposed else self.spans
        growth = [span.count / values.shape[first + axis] for axis, span in enumerate(spans)]
        # Axes that grow least go first, so that the intermediate arrays stay small.
        for axis in sorted(range(len(spans)), key=growth.__getitem__):
            values = spans[axis].sampled(values, first + axis, self.method)
        if values.shape[first:] == self.size:
            return values
        whole = np.zeros((*lead, *self.size), dtype=values.dtype)
        box: tuple[Any, ...] = (..., *self.window)
        whole[box] = values
        return whole
