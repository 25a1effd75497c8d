"""Models loaded and unloaded by the API, on real workers, of which one is killed over it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import httpx
import psutil
import pytest

from camserve.broker.embedded import EmbeddedServer
from tests.app.front import png
from tests.service import Service, make_repository
from tests.workers.cards import FACTORIES, TINY, factory_card

PICTURE = png(8, 8)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers on the CPU, and a model `slow` that is loaded once a file is there."""
    folder = tmp_path_factory.mktemp("administration")
    models = make_repository(
        folder / "models",
        cards={"tiny": TINY, "slow": factory_card("gated", folder=str(folder))},
    )
    with (
        EmbeddedServer(folder / "state") as server,
        Service(server.url, models, folder, devices="cpu,cpu", preload="none",
                factories=",".join(FACTORIES), lease_s=3) as running,
    ):  # fmt: skip
        running.wait_for(lambda client: client.get("/readyz").json()["workers"] == 2)
        yield running


@pytest.fixture
def client(two_workers: Service) -> Iterator[httpx.Client]:
    with two_workers.client() as client:
        yield client


def predict(client: httpx.Client) -> int:
    return client.post("/v1/models/tiny/predict", files={"input": PICTURE}).status_code


def test_resident_on_all_workers_and_on_none(client: httpx.Client) -> None:
    for _ in range(2):
        loaded = client.post("/v1/models/tiny/load")
        assert loaded.status_code == 200, loaded.text
        residences = loaded.json()["resident_on"]
        assert len({one["worker"] for one in residences}) == 2
        assert {one["device"] for one in residences} == {"cpu"}
    assert predict(client) == 200
    for _ in range(2):
        unloaded = client.post("/v1/models/tiny/unload")
        assert (unloaded.status_code, unloaded.json()["resident_on"]) == (200, [])
        assert unloaded.json()["ready"], "it is loaded on demand"
    assert predict(client) == 200
    (_, tiny) = client.get("/v1/models").json()["models"]
    assert tiny["p50_ms"]["predict"] > 0


def test_no_request_is_lost_while_it_is_unloaded(
    client: httpx.Client, two_workers: Service
) -> None:
    statuses: list[int] = []

    def ask() -> None:
        with two_workers.client() as own:
            statuses.extend(predict(own) for _ in range(6))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert client.post("/v1/models/tiny/unload").status_code == 200
    for thread in threads:
        thread.join()
    assert statuses == [200] * 18


def test_a_worker_that_is_killed_over_a_load(client: httpx.Client, two_workers: Service) -> None:
    """The one that comes in its place is told anew, and the call ends well."""
    folder = two_workers.log.parent
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(client.post("/v1/models/slow/load")))
    asking.start()
    two_workers.wait_for(lambda _: len(list(folder.glob("entered-*"))) == 2)
    victim = int(next(folder.glob("entered-*")).name.removeprefix("entered-"))
    assert "workers.child" in " ".join(psutil.Process(victim).cmdline())
    os.kill(victim, signal.SIGKILL)
    two_workers.wait_for(lambda _: len(list(folder.glob("entered-*"))) == 3)
    (folder / "go").touch()
    asking.join(40)
    (answer,) = answers
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["resident_on"]) == 2
    assert client.get("/v1/models/slow").json()["ready"]
