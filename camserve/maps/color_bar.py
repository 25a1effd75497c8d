"""A slim colour bar to the right of a picture, with the numbers that its ends stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camserve.maps.colormaps import colour_image

__all__ = ["largest_with_color_bar", "with_color_bar"]

# of what a label may be: three digits, a sign and an exponent of three more
_LONGEST: Final = "-8.88e+308"


def with_color_bar(
    picture: Image.Image, colormap: str, limits: tuple[float, float], *, last: int = 255
) -> Image.Image:
    """`picture` on a wider canvas, with a bar from `limits[0]` (bottom) to `limits[1]` (top).

    The panel is white; bar and text grow with the picture. A picture that is too low for two lines
    of legible text gets a higher canvas. Keeps the picture's mode.
    last: the table entry that stands for `limits[1]`.
    """
    measures = _measures(picture.width, picture.height)
    size, margin, thickness, tick = (
        measures.text, measures.margin, measures.thickness, measures.tick
    )  # fmt: skip
    font = ImageFont.load_default(size)
    low, high = limits
    largest = max(abs(low), abs(high))
    shares = (0.0, 0.5, 1.0) if high > low else (0.0,)
    labels = {share: _number(low + share * (high - low), largest) for share in shares}
    text_width = max(int(np.ceil(font.getlength(label))) for label in labels.values())

    height = max(picture.height, measures.least_height)
    panel = measures.panel(text_width)
    canvas = Image.new(picture.mode, (picture.width + panel, height), "white")
    canvas.paste(picture, (0, (height - picture.height) // 2))

    left, top, length = picture.width + margin, margin + size // 2, height - 2 * margin - size
    ramp = np.linspace(float(last), 0.0, length).round().astype(np.uint8)
    bar = colour_image(np.repeat(ramp[:, None], thickness, axis=1), colormap)
    canvas.paste(bar, (left, top))
    draw = ImageDraw.Draw(canvas)
    ink = (40, 40, 40, 255)[: len(picture.getbands())]
    right = left + thickness
    draw.rectangle((left - 1, top - 1, right, top + length), outline=ink)
    for share, label in labels.items():
        y = top + round((1.0 - share) * (length - 1))
        draw.line((right, y, right + tick, y), fill=ink, width=max(1, size // 14))
        draw.text((right + 2 * tick, y), label, fill=ink, font=font, anchor="lm")
    return canvas


def largest_with_color_bar(width: int, height: int) -> tuple[int, int]:
    """(width, height) of a picture of that size with a bar, whatever its labels: at most that."""
    measures = _measures(width, height)
    panel = measures.panel(_longest_label(measures.text))
    return width + panel, max(height, measures.least_height)


@dataclass(frozen=True)
class _Measures:
    """Pixels: the height of the text, and what grows with it."""

    text: int

    @property
    def margin(self) -> int:
        return max(4, round(0.6 * self.text))

    @property
    def thickness(self) -> int:
        return max(6, round(0.8 * self.text))

    @property
    def tick(self) -> int:
        return max(2, self.text // 4)

    @property
    def least_height(self) -> int:
        return 4 * self.text + 2 * self.margin

    def panel(self, label_width: int) -> int:
        """Width of all that stands to the right of the picture."""
        return self.margin + self.thickness + self.tick + self.tick + label_width + self.margin


def _measures(width: int, height: int) -> _Measures:
    return _Measures(max(11, round(0.035 * min(height, 1.5 * width))))


@lru_cache(maxsize=256)
def _longest_label(text: int) -> int:
    return int(np.ceil(ImageFont.load_default(text).getlength(_LONGEST)))


def _number(value: float, largest: float) -> str:
    """Three significant digits, without the exponents that nobody needs: 0.5, 12.3, 4.1e-07.

    What is nothing beside the largest, such as the rest that rounding leaves, is 0.
    """
    return f"{0.0 if abs(value) < 1e-4 * largest else value:.3g}"
