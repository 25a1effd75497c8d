"""Predictions over real HTTP, a real queue and a real worker, held against torch by hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from functools import cache

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.shapes.outlines import LABELS
from tests.service import ROOT, Service

SAMPLES = ROOT / "models" / "shapes" / "samples"
NAMES = ("heart", "star", "cross", "heart-star")
URL = "/v1/models/shapes/predict"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@cache
def by_hand() -> Tensor:
    """(N, classes) logits of the samples: the program run by torch, the preprocessing by hand."""
    program = torch.export.load(ROOT / "models" / "shapes" / "model.pt2").module()
    rows = []
    for name in NAMES:
        with Image.open(SAMPLES / f"{name}.png") as image:
            resized = image.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized, np.float32) / 255
        ready = (pixels - 0.5) / 0.25
        rows.append(torch.from_numpy(ready.astype(np.float32)).permute(2, 0, 1))
    with torch.no_grad():
        return torch.stack([program(row[None])[0] for row in rows])


def files() -> list[tuple[str, tuple[str, bytes]]]:
    return [("input", (f"{n}.png", (SAMPLES / f"{n}.png").read_bytes())) for n in NAMES]


def test_scores_and_probabilities_are_torchs(client: httpx.Client) -> None:
    response = client.post(URL, files=files(), data={"top": str(len(LABELS))})
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [one["input_name"] for one in results] == [f"{name}.png" for name in NAMES]
    logits = by_hand()
    probabilities = logits.double().softmax(1)
    for row, one in enumerate(results):
        found = one["predictions"]
        assert [p["class_index"] for p in found] == logits[row].argsort(descending=True).tolist()
        for p in found:
            index = p["class_index"]
            assert p["class_label"] == LABELS[index]
            assert p["score"] == pytest.approx(float(logits[row, index]), rel=1e-4, abs=1e-4)
            assert p["probability"] == pytest.approx(
                float(probabilities[row, index]), rel=1e-3, abs=1e-9
            )
    assert [one["predictions"][0]["class_label"] for one in results[:3]] == list(NAMES[:3])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_explanation_reports_the_same_scores(client: httpx.Client, precision: str) -> None:
    predicted = client.post(URL, files=files(), data={"precision": precision, "top": "3"}).json()
    explained = client.post(
        "/v1/explanations",
        files=files(),
        data={"model": "shapes", "precision": precision, "top": "3"},
    ).json()
    scores = [
        (result["input"], p["class_index"], p["score"])
        for result in predicted["results"]
        for p in result["predictions"]
    ]
    reported = [
        (r["input"], r["target"]["class_index"], r["target"]["score"]) for r in explained["results"]
    ]
    assert [one[:2] for one in scores] == [one[:2] for one in reported]
    found, expected = ([one[2] for one in side] for side in (scores, reported))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_three_bodies_and_the_array_agree(client: httpx.Client) -> None:
    picture = (SAMPLES / "heart-star.png").read_bytes()
    document = {"inputs": [{"image": {"base64": base64.b64encode(picture).decode()}}]}
    raw = {"Content-Type": "image/png"}
    answers = [
        client.post(URL, json=document),
        client.post(URL, files={"input": picture}),
        client.post(URL, content=picture, headers=raw),
    ]
    found = [answer.json()["results"][0]["predictions"] for answer in answers]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 5
    array = client.post(f"{URL}?as=npy", content=picture, headers=raw)
    outputs = np.load(io.BytesIO(array.content))
    assert outputs.shape == (1, len(LABELS))
    for one in found[0]:
        assert outputs[0, one["class_index"]] == np.float32(one["score"])
    np.testing.assert_allclose(outputs[0], by_hand()[3].numpy(), rtol=1e-4, atol=1e-4)


def test_a_model_that_cannot_be_loaded_says_why(client: httpx.Client) -> None:
    response = client.post("/v1/models/resnet50/predict", files=files()[:1])
    assert response.status_code == 503
    assert response.json()["code"] == "model_unavailable"
    assert "HF_ENDPOINT" in response.json()["detail"]
