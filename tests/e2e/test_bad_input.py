"""What people get wrong: each a clear 4xx problem, and a service that goes on."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service import ROOT, Service

STAR = (ROOT / "models" / "shapes" / "samples" / "star.png").read_bytes()


def jpeg() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def huge_png() -> bytes:
    """60 megapixels in a few kilobytes."""
    file = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    return file.getvalue()


def form(data: bytes = STAR, **fields: Any) -> dict[str, Any]:
    return {"data": {"model": "shapes"} | fields, "files": {"input": ("picture.jpg", data)}}


def raw(data: bytes, content_type: str, query: str = "model=shapes") -> dict[str, Any]:
    return {"content": data, "headers": {"Content-Type": content_type}, "params": query}


MISTAKES = [
    ("empty body", raw(b"", "image/png"), 400, "empty_body", "no body"),
    ("text called .jpg", form(b"not a picture"), 415, "unreadable_image", "JPEG, PNG"),
    ("truncated JPEG", form(jpeg()[:4000]), 422, "corrupt_image", "truncated"),
    ("60-megapixel PNG", form(huge_png()), 413, "too_large", "60.0 megapixels"),
    ("wrong content type", raw(STAR, "text/plain"), 415, "unsupported_media_type", "image/png"),
    ("unknown model", form(model="shape"), 404, "model_not_found", "'shapes'"),
    ("class index", form(class_index=99), 422, "class_index_out_of_range", "0 to 7"),
    ("unknown layer", form(feature_layer="stage9"), 404, "layer_not_found", "'stage3'"),
    ("unknown field", form(colour_map="jet"), 422, "invalid_request", "colormap"),
    ("class and reduction", form(class_index=1, reduction="sum"), 422, "invalid_request", "one of"),
    ("unknown label", form(class_label="hart"), 422, "unknown_label", "'heart'"),
    ("layer that is not spatial", form(feature_layer="head"), 422, "not_explainable", ""),
    ("reduction parameter", form(reduction="class_margin"), 422, "invalid_request", "class_index"),
]


@pytest.mark.parametrize(
    ("request_", "status", "code", "remedy"),
    [mistake[1:] for mistake in MISTAKES],
    ids=[mistake[0] for mistake in MISTAKES],
)
def test_a_mistake_gets_a_clear_answer(
    service: Service, request_: dict[str, Any], status: int, code: str, remedy: str
) -> None:
    with service.client() as client:
        response = client.post("/v1/explanations", **request_)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["code"] == code
        assert problem["status"] == status
        assert remedy in problem["detail"]
        assert client.get(problem["type"]).status_code == 200
        assert goes_on(client)


def goes_on(client: httpx.Client) -> bool:
    response = client.post("/v1/explanations", **form())
    return response.status_code == 200 and client.get("/readyz").status_code == 200


def test_the_lists_that_help(service: Service) -> None:
    with service.client() as client:
        model = client.post("/v1/explanations", **form(model="shape")).json()
        assert model["near"][0] == "shapes"
        index = client.post("/v1/explanations", **form(class_index=8)).json()
        assert (index["minimum"], index["maximum"]) == (0, 7)
        layer = client.post("/v1/explanations", **form(feature_layer="stage9")).json()
        assert layer["candidates"][0] == "stage3"
