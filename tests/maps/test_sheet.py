"""Sheets: where the pictures stand, and how large the whole is."""

from __future__ import annotations

import numpy as np
from PIL import Image

from camserve.maps.sheet import sheet, sheet_size


def test_a_row_for_each_input_and_its_size_known_before():
    sizes = [(10, 20), (30, 5), (7, 7), (50, 3)]
    rows = [0, 0, 2, 5]
    colours = ["red", "lime", "blue", "black"]
    pictures = [Image.new("RGB", s, c) for s, c in zip(sizes, colours, strict=True)]
    whole = sheet(pictures, rows)
    assert whole.size == sheet_size(sizes, rows) == (50, 20 + 8 + 7 + 8 + 3)
    corners = [(0, 0), (18, 0), (0, 28), (0, 43)]
    for (left, top), picture in zip(corners, pictures, strict=True):
        box = (left, top, left + picture.width, top + picture.height)
        assert np.array_equal(whole.crop(box), picture)
    rest = np.asarray(whole).reshape(-1, 3)
    assert (rest == 255).all(axis=1).sum() == 50 * 46 - sum(w * h for w, h in sizes)
