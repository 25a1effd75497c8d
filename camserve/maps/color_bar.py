"""A slim colour bar to the right of a picture, with the numbers that its ends stand for."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from camserve.maps.colormaps import colour_image

__all__ = ["with_color_bar"]


def with_color_bar(picture: Image.Image, colormap: str, limits: tuple[float, float]) -> Image.Image:
    """`picture` on a wider canvas, with a bar from `limits[0]` (bottom) to `limits[1]` (top).

    The panel is white; bar and text grow with the picture. A picture that is too low for two lines
    of legible text gets a higher canvas. Keeps the picture's mode.
    """
    size = max(11, round(0.035 * min(picture.height, 1.5 * picture.width)))
    font = ImageFont.load_default(size)
    margin = max(4, round(0.6 * size))
    thickness = max(6, round(0.8 * size))
    tick = max(2, size // 4)
    low, high = limits
    labels = {0.0: _number(low), 0.5: _number((low + high) / 2), 1.0: _number(high)}
    text_width = max(int(np.ceil(font.getlength(label))) for label in labels.values())

    height = max(picture.height, 4 * size + 2 * margin)
    panel = margin + thickness + tick + tick + text_width + margin
    canvas = Image.new(picture.mode, (picture.width + panel, height), "white")
    canvas.paste(picture, (0, (height - picture.height) // 2))

    left, top, length = picture.width + margin, margin + size // 2, height - 2 * margin - size
    ramp = np.linspace(255.0, 0.0, length).round().astype(np.uint8)
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


def _number(value: float) -> str:
    """Three significant digits, without the exponents that nobody needs: 0.5, 12.3, 4.1e-07."""
    return f"{value:.3g}"
