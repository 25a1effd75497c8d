"""Maps and pictures are registered to the upload, however it was turned, cropped and resized."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from app.documents import Upload
from app.inputs import prepare
from app.pictures import ORIENTATION
from app.presentation import finish_map
from app.sizes import Room
from camserve.contracts.input_specs import PictureSpec
from camserve.contracts.options import ArrayOptions
from camserve.maps.conventions import CONVENTIONS
from camserve.settings import Settings
from tests.app.drawing import encoded, finished, picture

ROOM = Room(16)
GEOMETRIES = {
    "stretch": PictureSpec(height=64, width=64),
    "shortest edge": PictureSpec(height=64, width=64, resize="shortest_edge", resize_to=72),
    "letterbox": PictureSpec(height=64, width=64, resize="letterbox"),
    "stretch and crop": PictureSpec(height=56, width=56, resize_to=(64, 64)),
}
SQUARE = (70, 50, 90, 70)  # left, top, right, bottom, in the upright picture of 150 x 110


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_is_planted_in_a_turned_upload_is_found_in_its_place(
    geometry: str, orientation: int
) -> None:
    """A model that looks for brightness: its map, finished, is on the square that was planted."""
    spec = GEOMETRIES[geometry]
    upright = Image.new("RGB", (150, 110), "black")
    upright.paste((255, 255, 255), SQUARE)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # to stored: Image.Transpose by number
    stored = upright.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else upright
    upload = encoded(stored, "JPEG", exif=exif, quality=95)
    assert (
        np.abs(
            np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(upload))), float)
            - np.asarray(upright, float)
        ).mean()
        < 5
    )

    tensor = prepare(Upload(upload), spec, Settings())[0].tensor
    side = spec.height // 8
    cells = tensor.mean(0).reshape(side, 8, side, 8).mean((1, 3))
    done = finished(upload, maps=[cells], spec=spec)
    one = finish_map(done[0], 0, ArrayOptions(upsampling="linear"), ROOM)
    assert one.values.shape == (stored.height, stored.width)
    found = Image.fromarray(one.values)
    found.getexif()[ORIENTATION] = orientation
    seen = np.asarray(ImageOps.exif_transpose(found), float)
    rows, columns = np.mgrid[0:110, 0:150] + 0.5
    centre = ((seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum())
    assert abs(centre[0] - 80) < 3
    assert abs(centre[1] - 60) < 3

    drawn = picture(done, view="heatmap", colormap="gray", upsampling="linear")
    shown = np.asarray(ImageOps.exif_transpose(drawn).convert("LA"), float)
    assert shown.shape == (110, 150, 2)
    peak = np.unravel_index((shown[..., 0] * (shown[..., 1] > 0)).argmax(), (110, 150))
    assert SQUARE[1] - 4 <= peak[0] <= SQUARE[3] + 4
    assert SQUARE[0] - 4 <= peak[1] <= SQUARE[2] + 4


def test_what_the_model_did_not_see_has_no_colour() -> None:
    spec = GEOMETRIES["shortest edge"]
    wide = encoded(Image.new("RGB", (200, 50)))
    done = finished(wide, maps=[np.ones((4, 4), np.float32)], spec=spec)
    values = finish_map(done[0], 0, ArrayOptions(), ROOM).values
    assert (values[:, :70] == 0).all()
    assert (values[4:46, 80:120] > 0).all()
    alpha = np.asarray(picture(done, view="heatmap").getchannel("A"))
    assert (alpha[:, :70] == 0).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("later", [False, True], ids=["requested", "asked later"])
@pytest.mark.parametrize("upsampling", [None, "none"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_convention_is_registered_alike(
    convention: Any, upsampling: Any, orientation: int, *, later: bool
) -> None:
    """Also those that do not up-sample: a picture lies on the photograph's grid."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    upload = encoded(Image.new("RGB", (150, 90), "gray"), "JPEG", exif=exif)
    spec = GEOMETRIES["shortest edge"]  # and its crop
    cells = np.zeros((8, 8), np.float32)
    cells[2, 5] = 1.0
    chosen = {"convention": convention, "upsampling": upsampling}
    # one job for both scores, and the default
    plain = finished(upload, maps=[cells], spec=spec, reduction_layer="softmax")
    made = finished(upload, maps=[cells], spec=spec, reduction_layer="softmax", **chosen)
    for view in ("overlay", "heatmap"):
        usual = picture(plain, view=view)
        drawn = picture(plain, view=view, **chosen) if later else picture(made, view=view)
        assert drawn.size == usual.size == (150, 90)
        assert drawn.getexif().get(ORIENTATION, 1) == orientation
    strong: dict[str, Any] = {"view": "heatmap", "colormap": "gray", "threshold": 0.5}
    places = []
    for one in (picture(plain, **strong), picture(made, **strong)):
        seen = np.asarray(one.convert("LA"), float)
        weight = seen[..., 0] * (seen[..., 1] > 0)
        rows, columns = np.mgrid[0:90, 0:150]
        places.append(
            ((weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum())
        )
    assert places[0] == pytest.approx(places[1], abs=1.0)
