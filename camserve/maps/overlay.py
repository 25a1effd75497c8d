"""The pictures that people look at: a map over its photograph, by itself, or beside it.

The opacity follows the map. Where there is no evidence the photograph stays as it is; an even
opacity would drown the picture in the colour of zero. Strong evidence has `alpha`, and the peak
more; turbo ends before it gets dark. At 0.6 its dark red over a blue object is grey, and the peak
looks hollow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from camserve.errors import InvalidRequest
from camserve.maps.color_bar import largest_with_color_bar, with_color_bar
from camserve.maps.colormaps import DEFAULT_COLORMAP, colour_image, quantise
from camserve.maps.contour import Panel, seen_box, with_contours
from camserve.maps.orientation import AXES, as_stored, upright

__all__ = ["DEFAULT_ALPHA", "VIEWS", "View", "largest_size", "overlay"]

View = Literal["overlay", "heatmap", "side_by_side", "contour"]

VIEWS: Final[tuple[View, ...]] = get_args(View)
DEFAULT_ALPHA: Final = 0.6

# The opacity rises smoothly from nothing at _CLEAR to alpha at _FULL, and on to _PEAK, from where
# the photograph shines through alpha twice over. Chosen by eye, on bright and dark photographs.
_CLEAR: Final = 0.05
_FULL: Final = 0.6
_PEAK: Final = 0.85
# The table entry of 1 over a photograph, where it is not the last.
_LAST: Final = {"turbo": 237}


def overlay(
    picture: Image.Image,
    unit: NDArray[np.floating[Any]],
    *,
    mask: NDArray[np.bool_] | None = None,
    colormap: str = DEFAULT_COLORMAP,
    alpha: float = DEFAULT_ALPHA,
    threshold: float = 0.0,
    view: View = "overlay",
    color_bar: bool = False,
    color_bar_range: tuple[float, float] = (0.0, 1.0),
    orientation: int = 1,
    ink: bool = False,
    panels: Sequence[Panel] | None = None,
) -> Image.Image:
    """A picture of the map `unit` (h, w), in [0, 1], registered to `picture`.

    - `overlay`: the photograph under the map's colours; `alpha` (0 to 1) is their opacity where
      the map is high, and 1 - (1 - alpha)² at its peak. No colour where `mask` (h, w) is false: the
      model did not see that.
    - `heatmap`: the colours alone, opaque; transparent (RGBA) where there is no colour.
    - `side_by_side`: the photograph, and the overlay to its right.
    - `contour`: the photograph with lines at a quarter, a half and three quarters of the range.

    What lies below `threshold` (0 to 1) has no colour either. `picture` may be of any mode, and is
    resized to (w, h) when it is larger or smaller. `color_bar` adds a bar to the right, with the
    numbers of `color_bar_range` at its ends. Bar and neighbour stand where they should once the
    viewer has turned the picture by its EXIF `orientation`. `ink` is for drawings on white paper,
    whose lines stay dark on the colours. `panels` are the parts of a drawing that have a map of
    their own, rows and columns: contours run in each by itself; default: the box around `mask`.

    Returns an RGB picture (RGBA for a heat map with gaps); it is (w, h) without bar and neighbour.
    Raises InvalidRequest for alpha or threshold outside [0, 1], an unknown view or colour map, and
    a map or mask that is not (h, w).
    """
    _check(unit, mask, view, {"alpha": alpha, "threshold": threshold})
    coloured = mask
    if threshold > 0.0:
        coloured = unit >= threshold if mask is None else (unit >= threshold) & mask
    if view == "heatmap":
        result = _heatmap(unit, coloured, colormap)
    else:
        photograph = _fitted(picture, (unit.shape[1], unit.shape[0]))
        if view == "contour":
            boxes = [seen_box(unit.shape, mask)] if panels is None else panels
            result = with_contours(photograph, unit, boxes=boxes, name=colormap, lowest=threshold)
        elif ink:
            paper = Image.new("RGB", photograph.size, "white")
            colours = _blend(paper, unit, coloured, colormap, alpha)
            result = ImageChops.multiply(colours, photograph)
        else:
            result = _blend(photograph, unit, coloured, colormap, alpha)
    if view != "side_by_side" and not color_bar:
        return result
    result = upright(result, orientation)
    if view == "side_by_side":
        result = _beside(upright(photograph, orientation), result)
    if color_bar:
        last = _LAST.get(colormap, 255) if view in ("overlay", "side_by_side") else 255
        result = with_color_bar(result, colormap, color_bar_range, last=last)
    return as_stored(result, orientation)


def largest_size(
    size: tuple[int, int], *, view: View = "overlay", color_bar: bool = False, orientation: int = 1
) -> tuple[int, int]:
    """(width, height), upright, that the `overlay` of a map of `size` (width, height) has at most.

    It is exactly that without a colour bar, whose labels are wider or narrower.
    """
    quarter_turn = AXES[orientation][0]
    width, height = reversed(size) if quarter_turn else size
    if view == "side_by_side":
        width += _gap(width) + width
    return largest_with_color_bar(width, height) if color_bar else (width, height)


def _check(
    unit: NDArray[np.floating[Any]],
    mask: NDArray[np.bool_] | None,
    view: str,
    shares: dict[str, float],
) -> None:
    if view not in VIEWS:
        raise InvalidRequest(
            f"there is no view {view!r}: use one of {', '.join(VIEWS)}", field="view"
        )
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise InvalidRequest(f"{name} is a number from 0 to 1, not {share}", field=name)
    if unit.ndim != 2 or unit.size == 0 or (mask is not None and mask.shape != unit.shape):
        raise InvalidRequest(
            f"a picture needs a map of height x width, with a mask of the same size: the map is "
            f"{list(unit.shape)}, the mask {None if mask is None else list(mask.shape)}"
        )


def _blend(
    photograph: Image.Image,
    unit: NDArray[np.floating[Any]],
    coloured: NDArray[np.bool_] | None,
    colormap: str,
    alpha: float,
) -> Image.Image:
    """The photograph under the colours, which are the more opaque the higher the map."""
    levels = quantise(unit)
    share = np.linspace(0.0, 1.0, 256)
    base = alpha * _smooth((share - _CLEAR) / (_FULL - _CLEAR))
    more = alpha * (1.0 - alpha) * _smooth((share - _FULL) / (_PEAK - _FULL))
    table = (255.0 * (base + more) + 0.5).astype(np.uint8)
    opacity = Image.fromarray(levels).point(table.tolist())
    if coloured is not None:
        opacity = ImageChops.multiply(opacity, _as_levels(coloured))
    colours = colour_image(levels, colormap, last=_LAST.get(colormap, 255))
    return Image.composite(colours, photograph, opacity)


def _as_levels(mask: NDArray[np.bool_]) -> Image.Image:
    """255 where it is true, and 0."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def _smooth(rise: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 up to 0, 1 from 1 on, and level at both ends."""
    inside = np.clip(rise, 0.0, 1.0)
    return inside * inside * (3.0 - 2.0 * inside)


def _heatmap(
    unit: NDArray[np.floating[Any]], coloured: NDArray[np.bool_] | None, colormap: str
) -> Image.Image:
    colours = colour_image(quantise(unit), colormap)
    if coloured is not None and not coloured.all():
        colours.putalpha(_as_levels(coloured))
    return colours


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`picture` as RGB of `size` (w, h); itself, if it is that."""
    colours = picture if picture.mode == "RGB" else picture.convert("RGB")
    if picture.size == size:
        return colours
    # The gap of 3 lets Pillow shrink a large photograph in two steps, without a visible trace.
    return colours.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    gap = _gap(left.width)
    both = Image.new("RGB", (left.width + gap + right.width, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    return both


def _gap(width: int) -> int:
    return max(2, width // 80)
