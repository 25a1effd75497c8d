"""A file that comes again is not decoded again, and nobody can tell but by the time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import admission
from app.documents import Upload
from app.input_cache import QUICKLY_DIGESTED
from camserve.contracts.input_specs import PictureSpec
from camserve.contracts.jobs import Job
from tests.app.front import CARD, Front, png, prediction_of, problem, running_front
from workers.computed import computed_digest

pytestmark = pytest.mark.anyio

LOOKUPS = "camserve_input_cache_lookups_total"


@pytest.fixture
async def front(redis_url: str) -> AsyncIterator[Front]:
    async with running_front(redis_url) as running:
        await running.publish()
        yield running


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The names of the uploads that are decoded."""
    names: list[str | None] = []
    real = admission.prepare

    def prepare(upload: Upload, *arguments: Any, **options: Any) -> Any:
        names.append(upload.name)
        return real(upload, *arguments, **options)

    monkeypatch.setattr(admission, "prepare", prepare)
    return names


async def value(front: Front, name: str) -> float:
    """Of one metric of the front end; 0 of one that has not been counted yet."""
    page = (await front.client.get("/metrics")).text
    return next((float(x.split()[1]) for x in page.splitlines() if x.startswith(f"{name} ")), 0.0)


async def asked(front: Front, content: bytes | None = None, **options: Any) -> np.ndarray:
    """The input that a worker is sent."""
    response, _, tensors = await front.done(front.post(content, **options))
    assert response.status_code == 200, response.text
    return tensors["input.0"]


async def overlay(front: Front, content: bytes) -> bytes:
    response, _, _ = await front.done(front.post(content, params={"as": "png"}))
    return bytes(response.content)


async def test_another_class_of_the_same_file(front: Front, prepared: list[str | None]) -> None:
    first = await asked(front, params={"class_index": "0"})
    again = await asked(front, params={"class_index": "3"})
    assert len(prepared) == 1
    np.testing.assert_array_equal(first, again)
    assert await value(front, f'{LOOKUPS}{{result="miss"}}') == 1
    assert await value(front, f'{LOOKUPS}{{result="hit"}}') == 1
    assert await value(front, "camserve_input_cache_bytes") > first.nbytes
    drawn = await overlay(front, png())
    assert len(prepared) == 1
    assert Image.open(io.BytesIO(drawn)).size == (48, 40)


@pytest.mark.parametrize(
    "other",
    [
        {"content": png(color=(201, 60, 20))},
        {"params": {"model": "other"}},
    ],
    ids=["another picture", "another kind of input"],
)
async def test_what_differs_is_prepared(
    front: Front, prepared: list[str | None], other: dict[str, Any]
) -> None:
    spec = PictureSpec(height=16, width=16)
    await front.publish(CARD.model_copy(update={"name": "other", "input": spec}))
    await front.heartbeat("toy", "other")
    await asked(front)
    model = other.get("params", {}).get("model", "toy")
    response, (_, tensors) = await asyncio.gather(front.post(**other), front.work(model=model))
    assert response.status_code == 200
    assert len(prepared) == 2
    assert tensors["input.0"].shape[1] == (16 if model == "other" else 32)


async def test_a_file_of_another_name_keeps_its_own(
    front: Front, prepared: list[str | None]
) -> None:
    names = []
    for name in ("cat.png", "dog.png", "cat.png"):
        form = {"files": {"input": (name, png(), "image/png")}, "data": {"model": "toy"}}
        response, job, _ = await front.done(front.client.post("/v1/explanations", **form))
        assert response.status_code == 200, response.text
        names.append(job.inputs[0].name)
    assert names == ["cat.png", "dog.png", "cat.png"]
    assert prepared == ["cat.png", "dog.png"]


@pytest.mark.parametrize(
    ("words", "decoded"), [(("no-cache", ""), 1), (("no-store", ""), 2), (("", "no-cache"), 2)]
)
async def test_cache_control(
    front: Front, prepared: list[str | None], words: tuple[str, str], decoded: int
) -> None:
    """`no-cache` is prepared afresh and remembered for others; `no-store` leaves nothing behind."""
    for word in words:
        await asked(front, headers={"Cache-Control": word} if word else {})
    assert len(prepared) == decoded


async def test_a_large_file(front: Front, prepared: list[str | None]) -> None:
    """Which is digested in a thread."""
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    assert len(file.getvalue()) > QUICKLY_DIGESTED
    first, again = [await asked(front, file.getvalue()) for _ in range(2)]
    np.testing.assert_array_equal(first, again)
    assert len(prepared) == 1


async def test_the_least_recently_used_goes_first(
    redis_url: str, prepared: list[str | None]
) -> None:
    pictures = [png(color=(level, 0, 0)) for level in range(12)]
    each = 32 * 32 * 3 + len(pictures[0]) + 2048  # and some bytes more or less of the file
    async with running_front(redis_url, input_cache_mb=(10 * each + 500) / 1e6) as front:
        await front.publish()
        for picture in (*pictures[:10], pictures[0], *pictures[10:]):
            await asked(front, picture)
        assert len(prepared) == 12
        kept = await value(front, "camserve_input_cache_bytes")
        assert 9 * each < kept < 10 * each + 500
        await asked(front, pictures[0])  # used meanwhile
        await asked(front, pictures[11])
        assert len(prepared) == 12
        await asked(front, pictures[1])
        assert len(prepared) == 13


@pytest.mark.parametrize("limit", [0, 0.02], ids=["none", "too little for one"])
async def test_without_room_each_is_prepared(
    redis_url: str, prepared: list[str | None], limit: float
) -> None:
    async with running_front(redis_url, input_cache_mb=limit) as front:
        await front.publish()
        for _ in range(2):
            await asked(front)
        assert len(prepared) == 2
        assert await value(front, "camserve_input_cache_bytes") == 0


async def test_what_cannot_be_prepared_is_refused_each_time(front: Front) -> None:
    for _ in range(2):
        problem(await front.post(png()[:100]), 422, "corrupt_image")
    assert await value(front, "camserve_input_cache_bytes") == 0


async def test_a_prediction_leaves_an_explanation_its_picture(front: Front) -> None:
    """A prediction has no copy to draw on."""

    async def predict() -> None:
        begun = await front.begin()
        job = Job.model_validate_json(begun.document)
        result = prediction_of(job, [np.zeros(5)])
        assert await front.worker.finish(begun, result, computed_digest(job, result))

    url = "/v1/models/toy/predict"
    headers = {"Content-Type": "image/png"}
    response, _ = await asyncio.gather(
        front.client.post(url, content=png(), headers=headers), predict()
    )
    assert response.status_code == 200, response.text
    drawn = await overlay(front, png())
    assert Image.open(io.BytesIO(drawn)).size == (48, 40)
