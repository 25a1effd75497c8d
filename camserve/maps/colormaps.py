"""Colour maps: numbers from 0 to 1 to colours, through tables of 256 entries.

`turbo` is the default. On an overlay the lightness belongs to the photograph, so that the hue must
carry the value, and turbo has the most distinguishable hues in an order that everybody reads,
without jet's false bands. `viridis`, `inferno` and `magma` rise evenly in lightness and serve
readers with colour blindness, the heat map by itself, and print; `jet` is there to compare with
older figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camserve.errors import InvalidRequest, near_names
from camserve.maps.colormap_tables import TABLES

__all__ = [
    "COLORMAPS",
    "DEFAULT_COLORMAP",
    "ColormapName",
    "colormap",
    "colour_image",
    "quantise",
]

ColormapName = Literal["turbo", "viridis", "inferno", "magma", "jet", "gray"]

COLORMAPS: Final[tuple[ColormapName, ...]] = get_args(ColormapName)
DEFAULT_COLORMAP: Final[ColormapName] = "turbo"

# MATLAB's jet as matplotlib states it: where each channel bends, and its value there.
_JET: Final[Sequence[tuple[Sequence[float], Sequence[float]]]] = (
    ((0.0, 0.35, 0.66, 0.89, 1.0), (0.0, 0.0, 1.0, 1.0, 0.5)),
    ((0.0, 0.125, 0.375, 0.64, 0.91, 1.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)),
    ((0.0, 0.11, 0.34, 0.65, 1.0), (0.5, 1.0, 1.0, 0.0, 0.0)),
)


@cache
def colormap(name: str) -> NDArray[np.uint8]:
    """The table of a colour map: (256, 3) sRGB, read-only.

    Raises InvalidRequest, with the near names, when there is none of that name.
    """
    if name in TABLES:
        return np.frombuffer(bytes.fromhex(TABLES[name]), dtype=np.uint8).reshape(256, 3)
    if name == "jet":
        value = np.linspace(0.0, 1.0, 256)
        channels = [np.interp(value, bends, heights) for bends, heights in _JET]
        table = (np.stack(channels, axis=1) * 255.0).astype(np.uint8)
    elif name == "gray":
        table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    else:
        raise InvalidRequest(
            f"there is no colormap {name!r}: use one of {', '.join(COLORMAPS)}",
            field="colormap",
            near=near_names(name, COLORMAPS),
        )
    table.setflags(write=False)
    return table


def quantise(unit: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Values from 0 to 1 as the nearest of 256 table entries; beyond is clipped, NaN becomes 0."""
    # fmax and fmin, unlike clip, prefer the number to the NaN.
    scaled = np.fmax(unit, 0.0).astype(np.float32, copy=False)
    np.fmin(scaled, np.float32(1.0), out=scaled)
    scaled *= np.float32(255.0)
    scaled += np.float32(0.5)
    return cast("NDArray[np.uint8]", scaled.astype(np.uint8))


def colour_image(levels: NDArray[np.uint8], name: str, *, last: int = 255) -> Image.Image:
    """The (h, w) table entries as an RGB picture; Pillow's palette is the fastest look-up here.

    last: the table's entry that is shown for 255, and smaller levels in proportion.
    """
    picture = Image.fromarray(np.ascontiguousarray(levels))
    entries = np.linspace(0.0, last, 256).round().astype(np.uint8)
    picture.putpalette(colormap(name)[entries].tobytes())
    return picture.convert("RGB")
