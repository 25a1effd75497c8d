"""The queue as clients see it, with a real worker: poison, deadlines, priorities, a full line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from camserve.broker import JobQueue, Priority, connect, keys, new_job_id
from camserve.broker.embedded import EmbeddedServer
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.service import Service, make_repository
from tests.workers.cards import FACTORIES, factory_card
from tests.workers.factories import DEADLY, SLOW
from tests.workers.jobs import document, noise, payload

URL = "/v1/explanations"
ASYNC = {"Prefer": "respond-async"}
BATCH, DEPTH, BACKLOG = 4, 6, 500
LONG_MS = 600_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with two models that write down what they run."""
    folder = tmp_path_factory.mktemp("queue")
    card = factory_card("recording", folder=str(folder))
    with (
        EmbeddedServer(folder / "state") as server,
        Service(
            server.url, make_repository(folder / "models", cards={"odd": card, "even": card}),
            folder, factories=",".join(FACTORIES), max_batch=BATCH, max_attempts=2, lease_s=20,
            queue_depth=DEPTH, bulk_queue_depth=BACKLOG, max_deadline_s=LONG_MS / 1000,
        ) as running,
    ):  # fmt: skip
        yield running


@pytest.fixture
def folder(served: Service) -> Iterator[Path]:
    """Where the models tell and are told, as at first."""
    folder = served.log.parent
    for name in ("entered", "go", "held", "hold", "ran"):
        (folder / name).unlink(missing_ok=True)
    yield folder
    (folder / "go").touch()  # nothing waits on after a test that failed
    (folder / "hold").unlink(missing_ok=True)


@pytest.fixture
def client(served: Service) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture
def store(served: Service) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(served.setting("redis_url")) as store:
        yield store


def asked(mark: float, model: str = "odd", **fields: Any) -> dict[str, Any]:
    tensor = {"tensor": {"data": noise(0, mark).tolist()}}
    return {"model": model, "inputs": [tensor], "deadline_ms": LONG_MS, **fields}


def accepted(client: httpx.Client, mark: float, **fields: Any) -> str:
    response = client.post(URL, json=asked(mark, **fields), headers=ASYNC)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def state(client: httpx.Client, job_id: str) -> str:
    return str(client.get(f"{URL}/{job_id}").json()["state"])


def closed(served: Service, *ids: str) -> None:
    served.wait_for(lambda client: not {state(client, one) for one in ids} & {"queued", "running"})


def busy(served: Service, client: httpx.Client, folder: Path, **fields: Any) -> str:
    """The worker computes this one until the file `go` is there."""
    job_id = accepted(client, SLOW, **fields)
    served.wait_for(lambda _: (folder / "entered").exists())
    return job_id


def ran(folder: Path) -> list[float]:
    return [float(line) for line in (folder / "ran").read_text().splitlines()]


def test_poison_is_found_among_the_dead_letters_and_its_batch_mates_succeed(
    served: Service, client: httpx.Client, folder: Path
) -> None:
    blocker = busy(served, client, folder)
    first = accepted(client, 1.0)
    poison = accepted(client, DEADLY)
    last = accepted(client, 2.0)
    (folder / "go").touch()
    closed(served, blocker, first, poison, last)
    assert {state(client, one) for one in (blocker, first, last)} == {"succeeded"}
    dead = client.get(f"{URL}/{poison}").json()
    assert (dead["state"], dead["error"]["code"]) == ("dead", "dead_lettered")
    (letter,) = client.get("/v1/dead-letters").json()["dead_letters"]
    assert letter["id"] == poison
    assert letter["reason"] == "its worker died in each of 2 attempts"
    assert len({one["worker"] for one in letter["attempts"]}) == 2
    assert ran(folder).count(DEADLY) == 2
    assert client.delete("/v1/dead-letters").json() == {"purged": 1}


def test_what_expires_in_the_queue_is_504_and_never_runs(
    served: Service, client: httpx.Client, folder: Path
) -> None:
    blocker = busy(served, client, folder)
    response = client.post(URL, json=asked(7.0, deadline_ms=200))
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    late = response.json()["explanation"]
    (folder / "go").touch()
    closed(served, blocker, accepted(client, 8.0))
    assert 7.0 not in ran(folder)
    assert 8.0 in ran(folder)
    shown = client.get(late).json()
    assert (shown["state"], shown["attempts"]) == ("expired", 0)


def test_what_expires_while_its_model_loads_is_504_and_never_runs(
    served: Service, client: httpx.Client, folder: Path, store: redis.Redis
) -> None:
    assert client.post("/v1/models/odd/unload").status_code == 200
    (folder / "hold").touch()
    known = set(store.keys("cam:{odd}:job:*"))
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(client.post, URL, json=asked(9.0, deadline_ms=500))
        served.wait_for(lambda _: (folder / "held").exists())
        (job,) = set(store.keys("cam:{odd}:job:*")) - known
        served.wait_for(lambda _: store.time()[0] * 1000 > int(store.hget(job, "deadline_ms")))
        assert store.hget(job, "state") == b"running", "it began, and waits for the load"
        (folder / "hold").unlink()
        response = answer.result()
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    closed(served, accepted(client, 10.0))
    assert 9.0 not in ran(folder)
    assert 10.0 in ran(folder)


def backlog(redis_url: str) -> None:
    """So many bulk jobs of both models, as a front end hands them in."""

    async def make() -> None:
        async with connect(redis_url) as client:
            queue = JobQueue(client, queue_options(Settings(bulk_queue_depth=BACKLOG)))
            for number in range(BACKLOG):
                model = ("odd", "even")[number % 2]
                await queue.enqueue(
                    job_id=new_job_id(model), priority=Priority.BULK, time_to_deadline_ms=LONG_MS,
                    payload=payload(noise(0, 1.0)),
                    document=document(noise(0, 1.0), model=model).model_dump_json().encode(),
                )  # fmt: skip

    asyncio.run(make())


def test_a_backlog_of_bulk_jobs_delays_an_interactive_one_by_the_running_batch(
    served: Service, client: httpx.Client, folder: Path, store: redis.Redis
) -> None:
    blocker = busy(served, client, folder, priority="bulk")
    backlog(served.setting("redis_url"))
    interactive = [accepted(client, 5.0, model=model) for model in ("even", "odd", "even")]
    (folder / "go").touch()
    closed(served, blocker, *interactive)
    begun: dict[str, int] = {}
    for job in store.scan_iter("cam:*:job:*"):
        started_ms = store.hget(job, "started_ms")
        if store.hget(job, "priority") == b"bulk" and started_ms:
            begun[job.decode()] = int(started_ms)
    for job_id in interactive:
        job = keys.job(job_id.partition("-")[2], job_id)
        created_ms, started_ms = map(int, store.hmget(job, "created_ms", "started_ms"))
        assert state(client, job_id) == "succeeded"
        ahead = [name for name, ms in begun.items() if created_ms <= ms < started_ms]
        # none, but for those that filled the batch of another interactive one
        assert len(ahead) < BATCH, ahead
    # while all of the backlog that is left goes on behind them
    served.wait_for(
        lambda client: (
            {one["queue_depth"] for one in client.get("/v1/models").json()["models"]} == {0}
        )
    )


def test_a_full_line_says_when_it_will_be_done(
    served: Service, client: httpx.Client, folder: Path, store: redis.Redis
) -> None:
    ids = [busy(served, client, folder)]
    ids += [accepted(client, 1.0) for _ in range(DEPTH - 1)]
    bulk = accepted(client, 1.0, priority="bulk")
    refused = client.post(URL, json=asked(1.0))
    assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
    work_ms, jobs = map(float, store.hmget(keys.pace("odd"), "work_ms", "jobs"))
    expected_ms = DEPTH * work_ms / jobs
    assert expected_ms <= refused.json()["retry_after_s"] * 1000 <= expected_ms + 1
    assert int(refused.headers["Retry-After"]) == -(-refused.json()["retry_after_s"] // 1)
    (folder / "go").touch()
    closed(served, *ids, bulk)
    closed(served, accepted(client, 1.0))
