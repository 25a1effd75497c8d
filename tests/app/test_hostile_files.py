"""Hostile picture files: a clear 4xx or the right picture, in bounded memory and time."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import GifImagePlugin, Image

from app.pictures import decode_picture
from camserve.errors import CorruptImage, UnreadableImage
from tests.app.front import Front, problem
from tests.app.hostile_files import (
    ACCEPTED,
    DENSE,
    DENSE_PIXELS,
    FOREIGN,
    REFUSED,
    SCRIPT,
    encoded,
    noise,
    png_of,
)
from tests.app.test_pictures import KINDS
from tests.service import ROOT

pytestmark = [
    pytest.mark.anyio,
    # Pillow warns of what it repairs; the service goes on, and so must these
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]
CODES = {413: "too_large", 415: "unreadable_image", 422: "corrupt_image"}
ASYNC = {"Prefer": "respond-async"}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_bomb_or_a_ruin_is_refused(front: Front, name: str) -> None:
    make, status, told = REFUSED[name]
    response = await front.post(make(), headers=ASYNC)
    assert told in problem(response, status, CODES[status])["detail"]


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_file_of_another_kind_is_named_and_refused(front: Front, name: str) -> None:
    make, told = FOREIGN[name]
    document = problem(await front.post(make(), headers=ASYNC), 415, "unreadable_image")
    assert told in document["detail"]
    assert document["formats"] == ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]


@pytest.mark.parametrize("name", ACCEPTED)
async def test_what_looks_worse_than_it_is(front: Front, name: str) -> None:
    response = await front.post(ACCEPTED[name](), headers=ASYNC)
    assert response.status_code == 202, response.text


async def test_nothing_at_all_is_no_picture(front: Front) -> None:
    problem(await front.post(b"", headers=ASYNC), 400, "empty_body")
    form = {"data": {"model": "toy"}, "files": {"input": ("cat.jpg", b"")}}
    problem(await front.client.post("/v1/explanations", **form), 400, "empty_body")
    for text in ("", "data:image/png;base64,"):
        document = {"model": "toy", "inputs": [{"image": {"base64": text}}]}
        refused = await front.client.post("/v1/explanations", json=document)
        assert problem(refused, 422, "invalid_request")["field"] == "inputs.0.image.base64"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused_or_whole(kind: str) -> None:
    """Never half a picture: what a cut leaves is all of the pixels, or an error that says so."""
    data = KINDS[kind][0]()
    whole = np.asarray(decode_picture(data, 50).image.convert("RGB"))
    found: Counter[str] = Counter()
    for end in range(len(data)):
        try:
            left = decode_picture(data[:end], 50).image
        except (CorruptImage, UnreadableImage) as error:
            found[error.code] += 1
            continue
        np.testing.assert_array_equal(np.asarray(left.convert("RGB")), whole, str(end))
    # a few bytes may be anything; as soon as they are known, the file is a damaged one
    assert found["unreadable_image"] <= 20
    assert found["corrupt_image"] > 40


def test_preparing_takes_bounded_memory_and_ends() -> None:
    """Each in a process of its own, with an end of its processor time."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.app.hostile_files"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    peaks: dict[str, Any] = json.loads(done.stdout)
    assert set(peaks) == {*REFUSED, *FOREIGN, *ACCEPTED, *DENSE}
    assert not [name for name, peak in peaks.items() if peak is None], "killed"
    for name, peak in peaks.items():
        # WebP's decoder keeps two more copies of its canvas
        allowed = 24 * DENSE_PIXELS if name in DENSE else 200_000_000
        assert peak < allowed, f"{name}: {peak / 1e6:.0f} MB"


def test_of_a_million_frames_one_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[int] = []
    real = GifImagePlugin.GifImageFile._seek

    def seek(self: Any, frame: int, *args: Any, **options: Any) -> Any:
        sought.append(frame)
        return real(self, frame, *args, **options)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", seek)
    assert decode_picture(ACCEPTED["GIF of a million frames"](), 50).image.size == (1, 1)
    assert set(sought) == {0}


@pytest.mark.parametrize("name", ["PNG and a zip archive", "JPEG and a page", "GIF and a script"])
async def test_what_else_is_in_a_file_never_comes_out(front: Front, name: str) -> None:
    """Overlays and copies are pictures of ours: nothing of the upload's bytes is in them."""
    data = ACCEPTED[name]()
    for form, kind in (("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")):
        response, _, _ = await front.done(front.post(data, params={"as": form}))
        assert response.headers["content-type"] == f"image/{form}"
        with Image.open(io.BytesIO(response.content)) as drawn:
            assert drawn.format == kind
        assert SCRIPT not in response.content
        assert b"alert" not in response.content
        assert b"PK\x05\x06" not in response.content  # where an archive ends


@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535)])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
async def test_a_strip_is_explained_and_drawn(front: Front, kind: str, size: Any) -> None:
    strip = encoded(Image.new("P" if kind == "GIF" else "RGB", size), kind)
    response, _, _ = await front.done(front.post(strip, params={"as": "png"}))
    assert response.status_code == 200, response.text
    with Image.open(io.BytesIO(response.content)) as drawn:
        assert max(drawn.size) <= 65_535
    longer = encoded(Image.new("1", (65_536, 1)), "PNG")
    assert problem(await front.post(longer), 413, "too_large")["limit"] == 65_535


@pytest.mark.parametrize(
    ("claimed", "name"),
    [("image/jpeg", "cat.jpg"), ("image/tiff", "cat"), ("application/octet-stream", "cat.npy")],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
async def test_a_file_is_what_it_is_and_not_what_it_is_called(
    front: Front, kind: str, claimed: str, name: str
) -> None:
    picture = encoded(noise(32), kind)
    raw, _, tensors = await front.done(front.post(picture, headers={"Content-Type": claimed}))
    assert raw.status_code == 200, raw.text
    expected, _, plain = await front.done(front.post(picture, headers={"Content-Type": ""}))
    assert expected.status_code == 200
    form = {"data": {"model": "toy"}, "files": {"input": (name, picture, claimed)}}
    sent, _, formed = await front.done(front.client.post("/v1/explanations", **form))
    assert sent.status_code == 200
    for tensor, one, other in zip(plain.values(), tensors.values(), formed.values(), strict=True):
        np.testing.assert_array_equal(one, tensor)
        np.testing.assert_array_equal(other, tensor)


@pytest.mark.parametrize(
    ("color", "pixel", "shown"),
    [
        (2, (0xFA00, 0x0A00, 0x14FF), (250, 10, 20)),
        (6, (0xFA00, 0x0A00, 0x14FF, 0x8000), (250, 10, 20)),
        (0, (0xC8FF,), (200, 200, 200)),
        (4, (0xC8FF, 0x0100), (200, 200, 200)),
    ],
    ids=["RGB", "RGBA", "L", "LA"],
)
def test_sixteen_bits_a_channel(color: int, pixel: Any, shown: Any) -> None:
    row = b"\x00" + np.array(pixel * 4, ">u2").tobytes()
    image = decode_picture(png_of(4, 4, row * 4, depth=16, color=color), 50).image
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.full((4, 4, 3), shown))


def test_an_inverted_cmyk_jpeg_of_adobe_has_its_colours() -> None:
    """Ink is stored as its absence; told by the marker that Adobe's programs write."""
    colors = Image.new("RGB", (16, 16), (200, 40, 60))
    data = encoded(colors.convert("CMYK"), "JPEG", quality=98)
    assert b"Adobe" in data
    stored = Image.open(io.BytesIO(data))
    assert stored.info["adobe"] == 100
    shown = np.asarray(decode_picture(data, 50).image.convert("RGB"), float)
    assert np.abs(shown - np.asarray(colors, float)).max() < 12
