"""Which up-sampling a map gets: what was asked for, now or with the request, or its own."""

from __future__ import annotations

from typing import Final

from camserve.contracts.jobs import Job
from camserve.contracts.options import MapOptions, Upsampling
from camserve.errors import InvalidRequest
from camserve.maps.conventions import find_convention

__all__ = ["method_of_array", "method_of_picture"]

# of a convention that stays at the feature layer's resolution, where a size is asked for
_ENLARGED: Final = "bicubic"


def method_of_picture(job: Job, options: MapOptions) -> Upsampling:
    """A picture always lies on the input's grid: without up-sampling, cells stay cells."""
    asked = _asked(job, options)
    if asked is not None:
        return "nearest" if asked == "none" else asked
    own = _own(job, options)
    return _ENLARGED if own == "none" else own


def method_of_array(job: Job, options: MapOptions) -> Upsampling:
    """`none` stays at the feature layer's resolution. Raises InvalidRequest for contradictions.

    A size that is asked for later beats an up-sampling of `none` that came with the request.
    """
    if options.size == "feature":
        if options.upsampling not in (None, "none"):
            raise InvalidRequest(
                f"size=feature is the map as it is, without upsampling={options.upsampling}: leave "
                "one of them out",
                field="upsampling",
            )
        return "none"
    if options.size is None:
        return _asked(job, options) or _own(job, options)
    if options.upsampling == "none":
        raise InvalidRequest(
            f"upsampling=none keeps the feature layer's resolution, size={options.size} does not: "
            "ask for size=feature, or for another upsampling",
            field="upsampling",
        )
    return method_of_picture(job, options)


def _asked(job: Job, options: MapOptions) -> Upsampling | None:
    """What was asked for, now or with the request; None: the convention's own.

    What came with the request was chosen for the request's convention.
    """
    inherited = job.upsampling if options.convention is None else None
    return options.upsampling or inherited


def _own(job: Job, options: MapOptions) -> Upsampling:
    return find_convention(options.convention or job.convention).upsampling
