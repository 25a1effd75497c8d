"""Every limit of a request is a setting: just inside of it passes, just outside is refused."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from camserve.expressions import parse
from camserve.settings import Settings
from tests.app.front import Front, png, problem, running_front
from tests.app.hostile_files import png_of
from tests.service import ROOT

pytestmark = pytest.mark.anyio

URL = "/v1/explanations"
ASYNC = {"Prefer": "respond-async"}

ELSEWHERE = {
    "max_forward_passes": "tests/engine/test_budget.py::"
    "test_too_many_passes_are_refused_before_the_first",
    "picture_threads": "tests/app/test_picture_threads.py::"
    "test_an_input_that_fails_frees_no_thread_that_still_works",
    "max_attempts": "tests/broker/test_attempts.py::"
    "test_a_poison_job_dies_alone_and_leaves_a_letter",
    "dead_letters": "tests/broker/test_dead_letters.py::test_the_oldest_make_room",
    "max_batch": "tests/workers/test_loop.py::test_large_jobs_are_committed_one_by_one",
    "max_connections": "tests/app/test_stalled_clients.py::test_one_connection_too_many",
    "bulk_queue_depth": "tests/app/test_states.py::test_a_full_bulk_line_refuses_bulk_alone",
    "queue_depth": "tests/app/test_states.py::test_a_full_queue_is_429_and_says_when",
}
"""Setting: the test at its edge, where that is not here."""


def picture(width: int, height: int) -> bytes:
    return png(width, height)


def ok(response: httpx.Response) -> None:
    assert response.status_code == 202, response.text


def too_large(response: httpx.Response, limit: float) -> dict[str, Any]:
    document = problem(response, 413, "too_large")
    assert document["limit"] == limit
    assert re.search(f"(?<![0-9]){limit:g}|{limit / 1e6:g} MB", document["detail"])
    return document


async def post(front: Front, *pictures: bytes, **fields: Any) -> httpx.Response:
    files = [("input", one) for one in pictures or (png(),)]
    form = {"model": "toy", **fields}
    return await front.client.post(URL, data=form, files=files, headers=ASYNC)


async def in_json(front: Front, **fields: Any) -> httpx.Response:
    tensor = {"tensor": {"data": np.zeros((3, 32, 32)).tolist()}}
    document = {"model": "toy", "inputs": [tensor], **fields}
    return await front.client.post(URL, json=document, headers=ASYNC)


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


async def max_body_mb(start: Callable[..., Any]) -> None:
    """In bytes, to the last one, whether the body announces its length or not."""
    async with start(max_body_mb=0.01) as front:
        whole = png() + bytes(10_000 - len(png()))
        for content in (whole, in_pieces(whole)):
            ok(await front.post(content, headers=ASYNC))
        for content in (whole + b"0", in_pieces(whole + b"0")):
            too_large(await front.post(content, headers=ASYNC), 10_000)
        text = json.dumps({"model": "toy", "inputs": []}).encode()
        headers = {"Content-Type": "application/json"}
        for length, status in ((10_000, 422), (10_001, 413)):
            body = text + b" " * (length - len(text))
            response = await front.client.post(URL, content=body, headers=headers)
            assert response.status_code == status


async def max_megapixels(start: Callable[..., Any]) -> None:
    async with start(max_megapixels=0.002) as front:
        ok(await post(front, picture(50, 40)))
        too_large(await post(front, picture(69, 29)), 0.002)
        too_large(await post(front, png_of(2001, 1, b"")), 0.002)


async def max_inputs(start: Callable[..., Any]) -> None:
    async with start(max_inputs=3) as front:
        ok(await post(front, *[png()] * 3))
        too_large(await post(front, *[png()] * 4), 3)
        one = {"tensor": {"data": np.zeros((3, 32, 32)).tolist()}}
        ok(await in_json(front, inputs=[one] * 3))
        too_large(await in_json(front, inputs=[one] * 4), 3)
        for count, check in ((3, ok), (4, lambda answer: too_large(answer, 3))):
            stack = {"tensor": {"data": np.zeros((count, 3, 32, 32)).tolist()}}
            check(await in_json(front, inputs=[stack], format="BCSS"))


async def max_targets(start: Callable[..., Any]) -> None:
    async with start(max_targets=4) as front:
        for inside, outside in (
            ({"class_index": [0, 1, 2, 3]}, {"class_index": [0, 1, 2, 3, 4]}),
            ({"class_index": "0,1,2,3"}, {"class_index": "0,1,2,3,4"}),
            ({"top": 4}, {"top": 5}),
        ):
            ok(await post(front, **inside))
            too_large(await post(front, **outside), 4)
        ok(await in_json(front, targets=[{"top": 2}, {"class_index": [0, 1]}]))
        too_large(await in_json(front, targets=[{"top": 3}, {"class_index": [0, 1]}]), 4)
        too_large(await in_json(front, targets=[{"top": 1}] * 5), 4)


async def max_expression_nodes(start: Callable[..., Any]) -> None:
    inside = "x[0] - x[1]"
    nodes = parse(inside).nodes
    async with start(max_expression_nodes=nodes) as front:
        ok(await post(front, expression=inside))
        document = problem(await post(front, expression=f"-({inside})"), 422, "invalid_expression")
        assert f"at most {nodes} numbers" in document["detail"]
        assert document["column"] == 1


async def max_output_megapixels(start: Callable[..., Any]) -> None:
    async with start(max_output_megapixels=0.0012) as front:
        response, _, _ = await front.done(front.post())
        results = f"{response.headers['Location']}/results/0"
        for view in ("map", "overlay"):
            inside = await front.client.get(f"{results}/{view}", params={"size": "40x30"})
            assert inside.status_code == 200, inside.text
            outside = await front.client.get(f"{results}/{view}", params={"size": "1201x1"})
            too_large(outside, 0.0012)


async def max_json_megapixels(start: Callable[..., Any]) -> None:
    async with start(max_json_megapixels=0.0012) as front:
        response, _, _ = await front.done(front.post())
        address = f"{response.headers['Location']}/results/0/map"
        for size, form, fits in (
            *(("40x30", "json", True), ("1201x1", "json", False), ("1201x1", "npy", True)),
        ):
            answer = await front.client.get(address, params={"size": size, "as": form})
            if fits:
                assert answer.status_code == 200, answer.text
            else:
                too_large(answer, 0.0012)


async def picture_px(start: Callable[..., Any]) -> None:
    """The copy that overlays are drawn on, which is their default size."""
    async with start(picture_px=64) as front:
        for sent, shown in (((64, 40), (64, 40)), ((65, 40), (64, 39)), ((640, 64), (64, 6))):
            answer, _, _ = await front.done(front.post(picture(*sent), params={"as": "png"}))
            with Image.open(io.BytesIO(answer.content)) as drawn:
                assert drawn.size == shown


async def max_deadline_s(start: Callable[..., Any]) -> None:
    async with start(max_deadline_s=50) as front:
        ok(await post(front, deadline_ms=50_000))
        document = problem(await post(front, deadline_ms=50_001), 422, "invalid_request")
        assert document["limit"] == 50_000
        assert document["field"] == "deadline_ms"


HERE: dict[str, Callable[[Callable[..., Any]], Awaitable[None]]] = {
    edge.__name__: edge
    for edge in (
        *(max_body_mb, max_megapixels, max_inputs, max_targets, max_expression_nodes),
        *(max_output_megapixels, max_json_megapixels, picture_px, max_deadline_s),
    )
}


@pytest.mark.parametrize("setting", HERE)
async def test_the_edge_of(redis_url: str, setting: str) -> None:
    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Front]:
        assert setting in settings
        async with running_front(redis_url, **settings) as front:
            await front.publish()
            yield front

    await HERE[setting](start)


def test_every_limit_of_a_request_has_a_test_at_its_edge() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    section = page.split("## What a request may hold")[1].split("\n## ")[0]
    held = {name.lower() for name in re.findall(r"`CAMSERVE_(\w+)` \|", section)}
    limits = held | {name for name in Settings.model_fields if name.startswith("max_")}
    assert limits <= HERE.keys() | ELSEWHERE.keys()
    assert held >= {"max_body_mb", "max_megapixels", "max_expression_nodes"}
    assert not HERE.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("setting", ELSEWHERE)
def test_the_edge_of_a_limit_is_tested_elsewhere(setting: str) -> None:
    path, _, name = ELSEWHERE[setting].partition("::")
    tree = ast.parse((ROOT / path).read_text())
    functions = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions
