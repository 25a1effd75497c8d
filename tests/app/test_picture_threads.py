"""Pictures are decoded by few threads, and a call does not wait for one beyond its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app import admission
from camserve.broker import JobQueue
from camserve.errors import CorruptImage
from tests.app.front import Front, png, problem, running_front

pytestmark = pytest.mark.anyio

BAD, SLOW, MEETING = png(3, 3), png(4, 4), png(5, 5)
Prepare = Callable[..., Any]


class Preparing:
    """Stands in for the decoder: how many pictures it has in hand, and until when."""

    def __init__(self, real: Prepare) -> None:
        self.real = real
        self.done = threading.Event()
        self.slow_begun = threading.Event()
        self.meeting = threading.Barrier(2)
        self.lock = threading.Lock()
        self.running = self.most = 0

    def __call__(self, upload: Any, *others: Any, **options: Any) -> Any:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            if upload.data == BAD:
                self.slow_begun.wait(60)
                raise CorruptImage("bad")
            if upload.data == SLOW:
                self.slow_begun.set()
                self.done.wait(60)
            if upload.data == MEETING:
                with contextlib.suppress(threading.BrokenBarrierError):
                    self.meeting.wait(0.5)
            return self.real(upload, *others, **options)
        finally:
            with self.lock:
                self.running -= 1


@pytest.fixture
def preparing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Preparing]:
    made = Preparing(admission.prepare)
    monkeypatch.setattr(admission, "prepare", made)
    yield made
    made.done.set()


def post(front: Front, *pictures: bytes, **fields: Any) -> Any:
    files = [("input", picture) for picture in pictures]
    return front.client.post(
        "/v1/explanations", data={"model": "toy", **fields}, files=files,
        headers={"Prefer": "respond-async"},
    )  # fmt: skip


async def test_an_input_that_fails_frees_no_thread_that_still_works(
    redis_url: str, preparing: Preparing
) -> None:
    async with running_front(redis_url, picture_threads=2) as front:
        await front.publish()
        document = problem(await post(front, BAD, SLOW), 422, "corrupt_image")
        assert document["input"] == 0
        # one of the two threads is still busy, so that these cannot meet
        assert (await post(front, MEETING, MEETING)).status_code == 202
        assert preparing.most == 2
        preparing.done.set()


async def test_the_deadline_passes_while_a_picture_is_prepared(
    redis_url: str, preparing: Preparing
) -> None:
    async with running_front(redis_url, picture_threads=1) as front:
        await front.publish()
        async with asyncio.timeout(60):
            response = await post(front, SLOW, SLOW, deadline_ms=100)
        problem(response, 504, "deadline_exceeded")
        preparing.done.set()


async def test_the_wait_begins_before_the_preparation(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    real_wait, real_prepare = JobQueue.wait, admission.prepare

    async def wait(queue: JobQueue, job_id: str, wait_s: float) -> Any:
        waited.append(wait_s)
        return await real_wait(queue, job_id, wait_s)

    def prepare(*args: Any, **options: Any) -> Any:
        time.sleep(0.3)  # longer than a call waits
        return real_prepare(*args, **options)

    monkeypatch.setattr(JobQueue, "wait", wait)
    monkeypatch.setattr(admission, "prepare", prepare)
    async with running_front(redis_url, sync_wait_s=0.2) as front:
        await front.publish()
        response = await front.post()
        assert response.status_code == 202
        assert waited == [0]


async def test_to_ask_how_it_is_needs_no_place_among_the_pictures(
    redis_url: str, preparing: Preparing
) -> None:
    """Whoever polls a small answer must not wait behind photographs."""
    async with running_front(redis_url, picture_threads=1) as front:
        await front.publish()
        response, _, _ = await front.done(front.post())
        href = response.headers["Location"]
        waiting = await front.post(headers={"Prefer": "respond-async"})
        busy = asyncio.ensure_future(post(front, SLOW))
        await asyncio.to_thread(preparing.slow_begun.wait, 60)
        async with asyncio.timeout(60):
            assert (await front.client.get(href)).json()["state"] == "succeeded"
            assert (await front.client.get(f"{href}/events")).text.startswith("data:")
            queued = await front.client.get(waiting.headers["Location"])
            assert queued.json()["state"] == "queued"
            await front.client.delete(waiting.headers["Location"])
        assert not busy.done()
        preparing.done.set()
        assert (await busy).status_code == 202
