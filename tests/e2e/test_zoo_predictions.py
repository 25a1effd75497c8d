"""The outputs that the zoo's reference computations stored, from an uploaded file over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service import Service
from tests.zoo import ZOO, cases, needs_zoo

pytestmark = needs_zoo


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def of_each_input(holds: str, **target: str) -> list[Any]:
    """For each model and its inputs one case that stored that array, of logits.

    target: what else must be said of its target.
    """
    chosen: dict[tuple[str, ...], dict[str, Any]] = {}
    for case in cases():
        if not target.items() <= case["target"].items():
            continue
        if holds in case["arrays"] and case["target"].get("score") in (None, "logit"):
            chosen.setdefault((case["model"], *case["inputs"]), case)
    return [pytest.param(case, id=f"{case['id']}-{case['model']}") for case in chosen.values()]


def predicted(client: httpx.Client, case: dict[str, Any], model: str) -> list[dict[str, Any]]:
    files = [("input", (ZOO / name).read_bytes()) for name in case["inputs"]]
    response = client.post(f"/v1/models/{model}/predict", files=files)
    assert response.status_code == 200, response.text
    return list(response.json()["results"])


def probabilities(scores: np.ndarray, task: str) -> np.ndarray:
    if task == "multi-label":
        return 1 / (1 + np.exp(-scores))
    return np.exp(scores) / np.exp(scores).sum()


@pytest.mark.parametrize("case", of_each_input("output"))
def test_outputs(client: httpx.Client, case: dict[str, Any]) -> None:
    with np.load(ZOO / case["file"]) as stored:
        outputs = stored["output"].astype(float).reshape(len(case["inputs"]), -1)
    task = client.get(f"/v1/models/{case['model']}").json()["task"]
    for model in (case["model"], f"{case['model']}-onnx"):
        for one, scores in zip(predicted(client, case, model), outputs, strict=True):
            within = 1e-4 * max(1.0, float(np.abs(scores).max()))
            if task == "regression":
                assert one["values"] == pytest.approx(scores, abs=within)
                continue
            truth = probabilities(scores, task)
            classes = [p["class_index"] for p in one["predictions"]]
            assert classes[0] == scores.argmax()
            assert [p["score"] for p in one["predictions"]] == pytest.approx(
                scores[classes], abs=within
            )
            assert [p["probability"] for p in one["predictions"]] == pytest.approx(
                truth[classes], abs=within
            )


@pytest.mark.parametrize("case", of_each_input("pixels", pixels="predicted"))
def test_shares_of_a_segmentation(client: httpx.Client, case: dict[str, Any]) -> None:
    with np.load(ZOO / case["file"]) as stored:
        pixels = stored["pixels"].astype(float).reshape(len(case["inputs"]), -1)
    for one, mask in zip(predicted(client, case, case["model"]), pixels, strict=True):
        shares = {p["class_index"]: p["share"] for p in one["predictions"]}
        assert shares[case["target"]["class"]] == pytest.approx(mask.mean())
        assert sum(shares.values()) == pytest.approx(1)
