"""How the stored pixels of an upload became the model's input, and the way back for its maps.

Four steps: stand upright (EXIF), resize, take a window (a crop, or padding with zeros where the
window leaves the picture), and the window is the model's input. All sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from camserve.errors import InvalidInput, InvalidRequest, MalformedRequest, TooLarge
from camserve.maps.areas import Cells
from camserve.maps.orientation import AXES, check_orientation, upright
from camserve.maps.resample import Method
from camserve.maps.resizing import (
    RESIZE_MODES,
    CropRounding,
    ResizeMode,
    Size,
    centred_offset,
    resized_size,
)
from camserve.maps.sampler import AxisSpan, Sampler

__all__ = ["MAX_RESIZED_PIXELS", "Geometry", "plan"]

# Only a picture hundreds of times longer than wide gets there: 1 x 10000 pixels, brought to a
# shortest edge of 256, would take 2 GB.
MAX_RESIZED_PIXELS: Final = 50_000_000


@dataclass(frozen=True)
class Geometry:
    """One upload's way into the model.

    stored: size of the pixels as stored in the file. orientation: EXIF, 1 to 8. resized: size of
    the upright picture after the resize. offset: row and column of the resized picture at which the
    window starts, negative where it is padded. input_size: size of the window.

    Raises InvalidRequest for sizes below 1, for an orientation that EXIF does not know, and for a
    window that misses the picture.
    """

    stored: Size
    orientation: int
    resized: Size
    offset: Size
    input_size: Size

    def __post_init__(self) -> None:
        check_orientation(self.orientation)
        if min(*self.stored, *self.resized, *self.input_size) < 1:
            raise InvalidRequest(f"all sides must be at least 1 pixel: {self}")
        for length, start, side in zip(self.resized, self.offset, self.input_size, strict=True):
            if start >= length or start + side <= 0:
                raise InvalidRequest(f"the model's input would miss the picture: {self}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-ready members: sizes become lists of two integers."""
        members = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        return {"kind": "picture", **members}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Geometry:
        """The inverse of `to_json`. Raises MalformedRequest when a member is amiss."""
        try:
            return cls(
                stored=_pair(data["stored"]),
                orientation=_integer(data["orientation"]),
                resized=_pair(data["resized"]),
                offset=_pair(data["offset"]),
                input_size=_pair(data["input_size"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedRequest(f"not a geometry: {error!r}") from error

    def apply(
        self,
        image: Image.Image,
        resample: Image.Resampling = Image.Resampling.BICUBIC,
        *,
        reduction: int = 1,
    ) -> Image.Image:
        """The model's input picture, `input_size`, made from the stored pixels.

        The resize is Pillow's, which is antialiased, with all of its precision (no reducing gap),
        in the picture's own mode; a mode that Pillow cannot filter (palette, 1 bit) becomes RGB.

        reduction: of how many stored pixels a side `image` already has one. The last of a row, or
        of a column, may reach beyond the picture, as JPEG decoders leave it.
        Raises InvalidRequest when `image` has another size than `stored`, so reduced.
        """
        expected = tuple(-(-side // reduction) for side in self.stored)
        if (image.height, image.width) != expected:
            raise InvalidRequest(
                f"the geometry is for {expected} pixels (height, width), "
                f"the picture has {(image.height, image.width)}"
            )
        filterable = image.convert("RGB") if image.mode in {"1", "P", "PA"} else image
        standing = upright(filterable, self.orientation)
        height, width = self.resized
        if reduction > 1 or standing.size != (width, height):
            box = self._filled(standing.size, reduction)
            standing = standing.resize((width, height), resample, box)
        top, left = self.offset
        bottom, right = top + self.input_size[0], left + self.input_size[1]
        if (left, top, right, bottom) == (0, 0, width, height):
            return standing
        # Pillow fills what lies outside the picture with zeros.
        return standing.crop((left, top, right, bottom))

    def _filled(self, size: Size, reduction: int) -> tuple[float, float, float, float]:
        """Which part of the upright picture of that width and height the stored pixels fill."""
        turned, *reverses = AXES[self.orientation]
        found = []
        for axis, reverse in enumerate(reverses):  # upright rows, then columns
            length = self.stored[1 - axis if turned else axis] / reduction
            start = size[1 - axis] - length if reverse else 0.0
            found.append((start, start + length))
        (top, bottom), (left, right) = found
        return left, top, right, bottom

    def sampler(self, method: Method | None = None, size: Size | None = None) -> Sampler:
        """Registers a map that covers the model's input onto the upload's stored pixels.

        `size` (default `stored`) is the grid over the stored picture to sample at, say that of a
        thumbnail. Crop, padding and orientation are undone in one resampling from feature cells to
        pixels; what the model did not see is 0 and not in `Sampler.mask`. `method` None leaves the
        choice to the convention.
        """
        turned, reverse_rows, reverse_columns = AXES[self.orientation]
        height, width = size or self.stored
        rows, columns = (width, height) if turned else (height, width)
        return Sampler(
            (self._span(0, rows, reverse_rows), self._span(1, columns, reverse_columns)),
            method,
            transposed=turned,
        )

    def input_sampler(self, method: Method | None = None) -> Sampler:
        """Brings a map to the model's input, as most libraries do; all of it counts as seen."""
        return Sampler.whole(self.input_size, method)

    def cells(self) -> list[Cells]:
        """Where the rows and the columns of the model's input lie on the stored pixels."""
        turned, *reverses = AXES[self.orientation]
        found = []
        for axis, reverse in enumerate(reverses):
            along = 1 - axis if turned else axis
            seams = np.arange(self.input_size[axis] + 1) + self.offset[axis]
            edges = seams * self.stored[along] / self.resized[axis]
            found.append(Cells(along, self.stored[along] - edges if reverse else edges))
        return found

    def _span(self, axis: int, count: int, reverse: bool) -> AxisSpan:  # noqa: FBT001
        """Where `count` cells over an upright axis lie, as fractions of the model's input."""
        side = self.input_size[axis]
        return AxisSpan(count, -self.offset[axis] / side, self.resized[axis] / side, reverse)


def plan(
    stored_size: Size,
    orientation: int = 1,
    *,
    mode: ResizeMode,
    resize: int | Size | None = None,
    crop: Size | None = None,
    input_size: Size | None = None,
    crop_rounding: CropRounding = "transformers",
) -> Geometry:
    """The geometry of an upload of `stored_size` (height, width) with an EXIF `orientation`.

    - `stretch`: resized to `resize` (an int is a square; default `input_size`), whatever its shape.
    - `shortest_edge`: the short side becomes `resize` (default the smaller side of `input_size`),
      the long one int(edge * long / short), as transformers and torchvision truncate it.
    - `letterbox`: the largest size of the same shape that fits into `resize` (an int is a square;
      default `input_size`), sides rounded, in the middle of zeros.
    - `none`: the pixels as they are.

    Then `crop` (default: `input_size` after `shortest_edge`) is taken from the middle; where it is
    larger than the picture, it is padded with zeros. An odd margin is split as `crop_rounding`
    says: transformers' floor((side - crop) / 2), or torchvision's rounding half to even. The two
    differ by one pixel for some sizes.

    Raises InvalidRequest when a needed size is missing or when the outcome is not `input_size`
    (InvalidInput in mode `none`: then it is the picture that does not fit), and TooLarge when a
    thread of pixels would be resized beyond `MAX_RESIZED_PIXELS`.
    """
    check_orientation(orientation)
    if mode not in RESIZE_MODES:
        raise InvalidRequest(
            f"there is no resize mode {mode!r}: use one of {', '.join(RESIZE_MODES)}", field="mode"
        )
    turned = AXES[orientation][0]
    upright_size = (stored_size[1], stored_size[0]) if turned else stored_size
    if min(upright_size) < 1:
        raise InvalidInput(f"the picture has no pixels: {stored_size} (height, width)")
    resized, window = resized_size(upright_size, mode, resize, input_size)
    if mode != "none" and resized[0] * resized[1] > MAX_RESIZED_PIXELS:
        raise TooLarge(
            f"the picture is too long and thin: {_by(upright_size)} pixels (height x width) would "
            f"be resized to {_by(resized)}",
            limit=MAX_RESIZED_PIXELS,
        )
    window = crop or window
    offset = (
        centred_offset(resized[0], window[0], crop_rounding),
        centred_offset(resized[1], window[1], crop_rounding),
    )
    if input_size is not None and window != input_size:
        if mode == "none":
            raise InvalidInput(
                f"the model takes pictures of {_by(input_size)} pixels (height x width) and does "
                f"not resize them; this one has {_by(window)}",
                expected=list(input_size),
            )
        raise InvalidRequest(
            f"the preprocessing gives {_by(window)} pixels (height x width), the model takes "
            f"{_by(input_size)}: mend resize and crop in the model's card"
        )
    return Geometry(stored_size, orientation, resized, offset, window)


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _pair(value: Any) -> Size:
    first, second = value
    return _integer(first), _integer(second)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
