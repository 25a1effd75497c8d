"""An upload in, a Grad-CAM out: over real HTTP, through a real queue and a real worker."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.shapes.outlines import LABELS
from models.shapes.scenes import POINTING, scene
from tests.service import ROOT, Service
from tests.zoo import ZOO, cases, needs_zoo

SAMPLE = ROOT / "models" / "shapes" / "samples" / "heart-star.png"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def explain(client: httpx.Client, picture: Path | bytes, **fields: Any) -> dict[str, Any]:
    data = picture if isinstance(picture, bytes) else picture.read_bytes()
    response = client.post("/v1/explanations", data=fields, files={"input": data})
    assert response.status_code == 200, response.text
    return dict(response.json())


def npy(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content))


def test_the_three_bodies_give_the_same_map(client: httpx.Client) -> None:
    picture = SAMPLE.read_bytes()
    document = {
        "model": "shapes",
        "inputs": [{"image": {"base64": base64.b64encode(picture).decode()}}],
        "targets": [{"class_label": "star"}],
    }
    headers = {"Accept": "application/x-npy"}
    form = client.post(
        "/v1/explanations",
        data={"model": "shapes", "class_label": "star"},
        files={"input": picture},
        headers=headers,
    )
    raw = client.post(
        "/v1/explanations?model=shapes&class_label=star",
        content=picture,
        headers=headers | {"Content-Type": "image/png"},
    )
    as_json = client.post("/v1/explanations", json=document, headers=headers)
    first = npy(form)
    assert first.shape == (384, 384)
    assert np.array_equal(first, npy(raw))
    assert np.array_equal(first, npy(as_json))


def test_the_answer_names_what_was_done_and_links_to_the_rest(client: httpx.Client) -> None:
    done = explain(client, SAMPLE, model="shapes", class_label=["heart", "star"])
    assert done["state"] == "succeeded"
    assert [r["target"]["class_label"] for r in done["results"]] == ["heart", "star"]
    assert {r["feature_layer"] for r in done["results"]} == {"stage3"}
    assert {r["reduction_layer"] for r in done["results"]} == {"output"}
    one = done["results"][1]
    signed = npy(client.get(one["map"]["href"], params={"size": "feature", "convention": "captum"}))
    assert list(signed.shape) == one["map"]["shape"] == [16, 16]
    assert signed.min() == pytest.approx(one["map"]["min"])
    assert signed.max() == pytest.approx(one["map"]["max"])
    picture = Image.open(io.BytesIO(client.get(one["overlay"]["href"]).content))
    assert picture.size == (384, 384)
    again = client.get(done["href"]).json()
    assert again["results"] == done["results"]


def test_the_best_classes_come_best_first(client: httpx.Client) -> None:
    done = explain(client, SAMPLE, model="shapes", top=3)
    scores = [result["target"]["score"] for result in done["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {r["target"]["class_label"] for r in done["results"][:2]} == {"heart", "star"}


def test_a_request_that_does_not_wait(client: httpx.Client) -> None:
    response = client.post(
        "/v1/explanations",
        data={"model": "shapes"},
        files={"input": SAMPLE.read_bytes()},
        headers={"Prefer": "respond-async"},
    )
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    where = response.headers["Location"]
    assert response.json()["state"] in {"queued", "running", "succeeded"}
    # a second call that waits is answered behind the first: the queue is first in, first out
    explain(client, SAMPLE, model="shapes")
    assert client.get(where).json()["state"] == "succeeded"


def test_a_finished_explanation_is_not_canceled(client: httpx.Client) -> None:
    done = explain(client, SAMPLE, model="shapes")
    for _ in range(2):
        response = client.delete(done["href"])
        assert response.status_code == 200
        assert response.json()["state"] == "succeeded"


def test_the_models_say_what_they_are(client: httpx.Client, service: Service) -> None:
    models = {model["name"]: model for model in client.get("/v1/models").json()["models"]}
    assert models["shapes"]["state"] == "ready"
    (where,) = models["shapes"]["resident_on"]
    assert where["device"] == "cpu"
    card = client.get("/v1/models/shapes").json()
    assert card["labels"] == list(LABELS)
    assert card["feature_layer"] == "stage3"
    assert "16x16" in card["feature_reason"]
    assert service.url


@pytest.mark.parametrize("model", ["resnet50", "vit-base", "convnext-tiny"])
def test_a_model_out_of_reach_says_the_way_out(client: httpx.Client, model: str) -> None:
    response = client.post(
        "/v1/explanations", data={"model": model}, files={"input": SAMPLE.read_bytes()}
    )
    assert response.status_code == 503
    problem = response.json()
    assert problem["code"] == "model_unavailable"
    assert "HF_ENDPOINT" in problem["detail"]
    assert int(response.headers["Retry-After"]) > 0
    assert client.get(f"/v1/models/{model}").json()["state"] == "unavailable"
    assert client.get("/readyz").status_code == 200
    assert explain(client, SAMPLE, model="shapes")["state"] == "succeeded"


def test_the_pointing_game(client: httpx.Client) -> None:
    """Zhang et al. 2018: the peak of the map lies inside the object that the model names."""
    hits = 0
    for seed in POINTING:
        shown = scene(seed)
        file = io.BytesIO()
        Image.fromarray(np.asarray(shown.picture)).save(file, "PNG")
        response = client.post(
            "/v1/explanations?model=shapes",
            content=file.getvalue(),
            headers={"Content-Type": "image/png"},
        )
        result = response.json()["results"][0]
        if result["target"]["class_index"] != shown.label:
            continue
        values = npy(client.get(result["map"]["href"]))
        hits += bool(shown.mask[np.unravel_index(values.argmax(), values.shape)])
    assert hits >= 0.9 * len(POINTING)


def zoo_pictures() -> list[Path]:
    return sorted((ZOO / "images" / "cifar10").glob("*.jpg"))


@needs_zoo
@pytest.mark.parametrize("model", ["cifar10-resnet20", "cifar10-resnet56"])
def test_all_cifar_pictures_get_the_class_that_the_zoo_recorded(
    client: httpx.Client, model: str
) -> None:
    recorded = {}
    for case in cases():
        if case["model"] == model and len(case["inputs"]) == 1:
            with np.load(ZOO / case["file"]) as stored:
                recorded[case["inputs"][0]] = stored["output"][0]
    seen = 0
    for picture in zoo_pictures():
        done = explain(client, picture, model=model)
        name = str(picture.relative_to(ZOO))
        expected = recorded[name] if name in recorded else zoo_output(model, picture)
        target = done["results"][0]["target"]
        assert target["class_index"] == int(expected.argmax()), name
        assert target["score"] == pytest.approx(float(expected.max()), rel=1e-4), name
        seen += 1
    assert seen == 20


@cache
def zoo_program(model: str) -> Any:
    import torch  # a reference of its own, beside the service

    return torch.export.load(ZOO / "models" / model / "model.pt2").module()


def zoo_output(model: str, picture: Path) -> np.ndarray:
    """The zoo's own weights on a picture that no case records, by hand."""
    import torch

    known = json.loads((ZOO / "models" / model / "card.json").read_text())["input"]
    levels = np.asarray(Image.open(picture).convert("RGB"), dtype=np.float32) / 255
    x = (levels - known["normalisation"]["mean"]) / known["normalisation"]["std"]
    with torch.no_grad():
        tensor = torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32))
        return zoo_program(model)(tensor)[0].numpy()
