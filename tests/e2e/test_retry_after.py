"""`Retry-After` of a full line and the time in which it was done, within a factor of two.

Long, and of times: it is not among the tests that run by default. tests/broker/test_backpressure.py
has the arithmetic to the millisecond.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from camserve.broker.embedded import EmbeddedServer
from tests.service import Service, make_repository
from tests.workers.cards import FACTORIES, factory_card
from tests.workers.jobs import noise

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

URL = "/v1/explanations"
ASYNC = {"Prefer": "respond-async"}
DEPTH, BATCH = 48, 4
PAUSE_S = 0.25


def asked(model: str, inputs: int = 1) -> dict[str, Any]:
    tensor = {"tensor": {"data": noise(0).tolist()}}
    return {"model": model, "inputs": [tensor] * inputs, "deadline_ms": 600_000}


def fill(client: httpx.Client, model: str, inputs: int) -> tuple[float, float]:
    """Until it is refused; what it was told then, in seconds, and when that was."""
    while True:
        response = client.post(URL, json=asked(model, inputs), headers=ASYNC)
        if response.status_code == 429:
            return float(response.json()["retry_after_s"]), time.monotonic()
        assert response.status_code == 202, response.text


def depth(client: httpx.Client, model: str) -> int:
    models = client.get("/v1/models").json()["models"]
    return int(next(one["queue_depth"] for one in models if one["name"] == model))


def drained_s(client: httpx.Client, model: str, since_s: float) -> float:
    while depth(client, model):
        time.sleep(0.05)
    return time.monotonic() - since_s


@pytest.mark.parametrize(
    ("devices", "inputs", "rival"),
    [
        ("cpu", 1, False),
        ("cpu,cpu", 1, False),
        ("cpu", 3, False),  # a batch of four jobs takes three passes
        ("cpu", 1, True),  # another model takes turns
    ],
    ids=["one worker", "two workers", "several inputs", "a rival"],
)
def test_what_is_told_is_right(tmp_path: Path, devices: str, inputs: int, rival: bool) -> None:
    card = factory_card("pausing", seconds=PAUSE_S)
    with (
        EmbeddedServer(tmp_path / "state") as server,
        Service(
            server.url, make_repository(tmp_path / "models", cards={"m": card, "rival": card}),
            tmp_path, factories=",".join(FACTORIES), max_batch=BATCH, devices=devices,
            queue_depth=DEPTH, max_deadline_s=600,
        ) as service,
        service.client() as client,
    ):  # fmt: skip
        workers = devices.count(",") + 1
        service.wait_for(lambda one: one.get("/readyz").json()["workers"] == workers)
        stopping = threading.Event()

        def keep_busy() -> None:
            with service.client() as own:
                while not stopping.is_set():
                    if depth(own, "rival") < 2 * BATCH:
                        own.post(URL, json=asked("rival"), headers=ASYNC)

        other = threading.Thread(target=keep_busy)
        if rival:
            other.start()
        try:
            fill(client, "m", inputs)
            drained_s(client, "m", 0)  # it has been measured
            told_s, since_s = fill(client, "m", inputs)
            took_s = drained_s(client, "m", since_s)
        finally:
            stopping.set()
            if rival:
                other.join()
    print(f"told {told_s:.1f} s, took {took_s:.1f} s")  # noqa: T201 - what it is run for
    assert took_s / 2 <= told_s <= took_s * 2
