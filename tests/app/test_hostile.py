"""Anything at all, sent to a running front end: never a 5xx, and always a problem."""

from __future__ import annotations

import base64
import copy
import json
import random
from typing import Any

import pytest

from app.flat_fields import flat_fields
from camserve.contracts.requests import ExplanationRequest
from tests.app.front import Front, png, running_front

pytestmark = pytest.mark.anyio

VALID: dict[str, Any] = {
    "model": "toy",
    "inputs": [
        {"image": {"base64": base64.b64encode(png()).decode()}},
        {"tensor": {"data": [[[0.0] * 32] * 32] * 3}, "format": "CSS"},
    ],
    "format": "BSSC",
    "targets": [
        {"class_index": [0, 1]},
        {"class_label": "arrow"},
        {"top": 2},
        {"reduction": "class_margin", "params": {"class_index": 1, "against": 0}},
        {"reduction": "similarity", "params": {"reference": {"input": 1}}},
        {"expression": "x[0]"},
    ],
    "method": "ablationcam",
    "method_options": {"channels": 3},
    "evaluate": {"metrics": ["deletion"], "steps": 4},
    "feature_layer": ["features", "head"],
    "fusion": "max",
    "reduction_layer": "softmax",
    "convention": "paper",
    "upsampling": "linear",
    "priority": "bulk",
    "deadline_ms": 60000,
    "output": {"map": "list", "size": "8x8", "alpha": 0.5, "color_bar": True},
}
STRANGE: list[Any] = [
    *(None, True, -1, 0, 1, 2**63, 2**64, 10**30, 1e308, -0.0, "", "x" * 2000, "\u0000", "🙂"),
    *([], [[]], {}, {"": 0}, [None], [{}] * 50, "\\ud800", "../../etc/passwd", "*", "%s%n{0}"),
]


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(node, dict):
        for key, value in node.items():
            found += places(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node[:2]):
            found += places(value, (*path, index))
    return found


def replaced(path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    document = copy.deepcopy(VALID)
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return document


HEADERS = {"Prefer": "respond-async", "Content-Type": "application/json"}
URL = "/v1/explanations"


async def test_the_document_is_valid(front: Front) -> None:
    response = await front.client.post(URL, json=VALID, headers=HEADERS)
    assert response.status_code == 202, response.text


async def test_any_value_in_any_place(front: Front) -> None:
    cases = [(path, value) for path in places(VALID) for value in STRANGE]
    for path, value in random.Random(1).sample(cases, 300):
        body = json.dumps(replaced(path, value)).replace("\\\\ud800", "\\ud800")
        response = await front.client.post(URL, content=body, headers=HEADERS)
        if response.status_code == 429:  # what was accepted fills the queue
            await front.redis.flushall()
            await front.publish()
            continue
        if path == ("deadline_ms",) and response.status_code == 504:
            continue  # a deadline of a millisecond
        assert response.status_code < 500, (path, value, response.text)
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert len(response.content) < 20_000, (path, value)


STRANGE_TEXTS = [
    "",
    "\x7f",
    "é",
    "x" * 3000,
    "%00",
    "nan",
    "-1",
    "1e999",
    "0x10",
    "{}",
    "🙂",
    "1,2",
]


async def test_any_text_in_any_flat_field(front: Front) -> None:
    for field in (*flat_fields(ExplanationRequest), "as", "nonsense"):
        for text in STRANGE_TEXTS:
            query = {"model": "toy", field: text}
            response = await front.client.post(
                URL, params=query, content=png(), headers={"Prefer": "respond-async"}
            )
            assert response.status_code < 500, (field, text, response.text)


@pytest.mark.parametrize("name", ["Accept", "Prefer", "Idempotency-Key", "Content-Type"])
async def test_any_text_in_any_header(redis_url: str, name: str) -> None:
    async with running_front(redis_url, sync_wait_s=0.02) as front:
        await front.publish()
        await send_strange_headers(front, name)


async def send_strange_headers(front: Front, name: str) -> None:
    for text in ("", ";;;", ",,,", "=", '"', "q=1", "*/*;q=nan", "a/b;q=" + "9" * 5000, "é"):
        response = await front.client.post(
            URL + "?model=toy",
            content=png(),
            headers={"Prefer": "respond-async", name: text.encode("latin-1")},  # type: ignore[dict-item]
        )
        assert response.status_code < 500, (name, text, response.text)
