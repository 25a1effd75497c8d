"""What a request asks of its own answer, and what of it is refused before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.inputs import PreparedInput
from app.layouts import sights_of
from app.negotiation import NPY, PICTURES, ZIP
from app.sizes import Room, check_stackable, size_of_map
from app.upsamplings import method_of_array
from camserve.contracts.jobs import Job
from camserve.contracts.options import ArrayOptions, MapOptions, PictureOptions, PictureStyle
from camserve.errors import InvalidRequest, TooLarge
from camserve.settings import Settings

__all__ = ["array_options", "check_answer", "picture_options", "room_inline"]


def array_options(job: Job) -> ArrayOptions:
    """Of the maps in the answer to the request itself.

    Both come from one request: here a size beside upsampling=none is a contradiction.
    """
    return ArrayOptions(size=job.output.size, upsampling=job.upsampling, dtype=job.output.dtype)


def picture_options(job: Job) -> PictureOptions:
    """Of the picture that answers the request itself."""
    style = job.output.model_dump(include=set(PictureStyle.model_fields))
    return PictureOptions(**style, size=job.output.size)


def room_inline(job: Job, settings: Settings, maps: int) -> Room:
    """The room of the maps inside a JSON answer. Links have any: of a volume, size=640 is a drawing
    of 640 pixels behind one, and behind the other a map that has no room."""
    match job.output.map:
        case "list":
            return Room.of_lists(settings, maps)
        case "npy_base64":
            return Room.of_arrays(settings, maps)
        case "link":
            return Room(math.inf)


def check_answer(job: Job, inputs: Sequence[PreparedInput], form: str, settings: Settings) -> None:
    """Raises InvalidRequest or TooLarge for an answer that cannot be given whatever is computed:
    a size that contradicts the up-sampling or is too large, or a stack of maps that differ.

    form: media type of the answer. The maps inside the explanation are checked for all of them,
    since it can be fetched after any. Runs in a thread.
    """
    maps = len(inputs) * sum(target.count for target in job.targets)
    try:
        if form in PICTURES:
            _check_picture(job, inputs, form, settings)
        elif form in (NPY, ZIP):
            sizes = _sizes(job, array_options(job), inputs, Room.of_arrays(settings, maps))
            if form == NPY and maps > 1:
                check_stackable(sizes)
        linked = job.output.map == "link"
        options = MapOptions(size=job.output.size) if linked else array_options(job)
        _sizes(job, options, inputs, room_inline(job, settings, maps))
    except (InvalidRequest, TooLarge) as error:
        if error.extensions.get("field", "size") == "size":
            error.extensions["field"] = "output.size"
        raise


def _sizes(
    job: Job, options: MapOptions, inputs: Sequence[PreparedInput], room: Room
) -> list[tuple[int, ...]]:
    """Of the maps of each input; none where only the computation tells."""
    if method_of_array(job, options) == "none":
        return []
    return [size_of_map(options.size, one.geometry, room) for one in inputs]


def _check_picture(
    job: Job, inputs: Sequence[PreparedInput], form: str, settings: Settings
) -> None:
    options = picture_options(job)
    if options.size is None:
        return  # made to fit
    each = sum(target.count for target in job.targets)
    sights_of(
        [one.geometry for one in inputs for _ in range(each)],
        [number for number in range(len(inputs)) for _ in range(each)],
        {number: one.picture for number, one in enumerate(inputs)},
        options,
        form=form,
        max_megapixels=settings.max_output_megapixels,
    )
