"""From signed maps to the finished arrays that people ask for. Runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.results import Finished
from app.sizes import Room, sampler_for
from app.upsamplings import method_of_array
from camserve.contracts.jobs import Job
from camserve.contracts.options import ArrayOptions, Convention, MapOptions, Upsampling
from camserve.errors import InvalidRequest
from camserve.maps.conventions import find_convention, present
from camserve.maps.geometry import Geometry
from camserve.maps.grids import Grid, geometry_from_json
from camserve.maps.resample import FloatArray
from camserve.maps.sampler import Sampler

__all__ = [
    "FinishedMap",
    "asked_convention",
    "finish",
    "finish_map",
    "geometry_of",
    "in_clients_order",
    "raw_map",
]

_VIRTUAL: Final = ("softmax", "sigmoid")


@dataclass(frozen=True)
class FinishedMap:
    """values: axes as the input's."""

    values: NDArray[np.floating[Any]]
    convention: Convention


def finish_map(finished: Finished, number: int, options: ArrayOptions, room: Room) -> FinishedMap:
    """The array of one result, as its convention, up-sampling, fusion and size say.

    Without a size it is the input's, made to fit into `room`. Raises TooLarge for a size that is
    asked for and does not fit, InvalidRequest for options that contradict each other, or a dtype
    that does not reach as far as the map.
    """
    geometry = geometry_of(finished, number)
    method = method_of_array(finished.job, options)
    sampler = None if method == "none" else sampler_for(options.size, geometry, room)
    one = finish(finished, number, options, method, sampler)
    room.check_cells(one.values.shape)
    values = in_clients_order(geometry, one.values)
    if options.dtype == "float16":
        _check_reach(values)
    # orjson, for one, takes no transposed views
    return FinishedMap(np.ascontiguousarray(values, dtype=options.dtype), one.convention)


def _check_reach(values: FloatArray) -> None:
    """Raises InvalidRequest for finite values that would be infinite in half precision."""
    limit = float(np.finfo(np.float16).max)
    highest = float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values)))
    if highest > limit:
        raise InvalidRequest(
            f"the map reaches {highest:g}, and float16 {limit:g}: ask for float32", field="dtype"
        )


def raw_map(finished: Finished, number: int) -> FloatArray:
    """The signed map at the feature layer's resolution, axes as the input's; of several layers
    fused as the request says, at the largest resolution."""
    job = finished.job
    fusion = job.fusion or find_convention(job.convention).fusion
    fused = present(finished.maps[number], "captum", None, fusion=fusion)
    return in_clients_order(geometry_of(finished, number), fused)


def in_clients_order(geometry: Geometry | Grid, values: FloatArray) -> FloatArray:
    return geometry.arranged(values) if isinstance(geometry, Grid) else values


def geometry_of(finished: Finished, number: int) -> Geometry | Grid:
    """Where the map of a result lies."""
    return geometry_from_json(finished.job.inputs[finished.result.rows[number].input].geometry)


def finish(
    finished: Finished,
    number: int,
    options: MapOptions,
    method: Upsampling,
    sampler: Sampler | None,
    *,
    over: Sampler | None = None,
) -> FinishedMap:
    """The map on the grid of `sampler`, in the model's order; None stays at feature resolution.

    over: a grid of the whole map, for a sampler of a part of it.
    """
    convention = asked_convention(finished, options)
    values = present(
        finished.maps[number],
        convention,
        sampler,
        upsampling=method,
        fusion=options.fusion or finished.job.fusion,
        over=over,
    )
    return FinishedMap(np.asarray(values, dtype=np.float32), convention)


def asked_convention(finished: Finished, options: MapOptions) -> Convention:
    """The convention that was asked for. Raises InvalidRequest if it needs another score.

    A convention is presentation, but for its score: MATLAB differentiates probabilities, the others
    the model's output, and no presentation makes one map of the other. A reduction layer that the
    request named itself overrules the score of any convention.
    """
    job, computed = finished.job, finished.result.reduction_layer
    asked = options.convention or job.convention
    needed = find_convention(asked).score
    if needed == find_convention(job.convention).score or _has_score(job, computed, needed):
        return asked
    raise InvalidRequest(
        f"this explanation differentiated {computed!r}, and convention={asked} needs another "
        f"score: send the input again (POST /v1/explanations) with convention={asked}",
        field="convention",
    )


def _has_score(job: Job, computed: str, needed: str) -> bool:
    if needed == "softmax_if_logits":
        return job.reduction_layer is not None or computed in _VIRTUAL
    return job.reduction_layer not in _VIRTUAL
