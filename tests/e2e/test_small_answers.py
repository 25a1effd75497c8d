"""JSON is small unless numbers are asked for, and then they are those of the .npy file."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.service import ROOT, Service

SAMPLE = ROOT / "models" / "shapes" / "samples" / "heart-star.png"


def picture() -> bytes:
    file = io.BytesIO()
    with Image.open(SAMPLE) as image:
        image.convert("RGB").resize((224, 224)).save(file, "PNG")
    return file.getvalue()


def test_the_numbers_of_json_are_those_of_npy_to_the_last_bit(service: Service) -> None:
    with service.client() as client:
        sent = {"Content-Type": "image/png"}
        url = "/v1/explanations?model=shapes&class_label=star"
        answer = client.post(url, content=picture(), headers=sent)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) < 2000
        (result,) = answer.json()["results"]
        assert "data" not in result["map"]
        href = result["map"]["href"]
        array = np.load(io.BytesIO(client.get(href).content))
        assert (array.shape, array.dtype) == ((224, 224), np.float32)
        assert array.max() > 0
        listed = client.get(href, params={"as": "json"}).json()["data"]
        assert np.array(listed, np.float32).tobytes() == array.tobytes()
        inline = client.post(f"{url}&map=list", content=picture(), headers=sent).json()
        listed = inline["results"][0]["map"]["data"]
        assert np.array(listed, np.float32).tobytes() == array.tobytes()
