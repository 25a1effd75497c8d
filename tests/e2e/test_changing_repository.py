"""An operator's day, by HTTP: models that crash the worker, mistakes, repairs, folders that go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from camserve.broker.embedded import EmbeddedServer
from tests.app.front import png, problem
from tests.service import Service, make_repository
from tests.workers.cards import FACTORIES, TINY, factory_card

PICTURE = png(8, 8)
OTHER = factory_card(seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operator")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Service]:
    """`crashes` takes the worker along whenever it is loaded, as it is at its start."""
    cards = {"tiny": TINY, "crashes": factory_card("deadly", how="segfault", folder=str(folder))}
    models = make_repository(folder / "models", cards=cards)
    with (
        EmbeddedServer(folder / "server") as server,
        Service(server.url, models, folder, factories=",".join(FACTORIES)) as running,
    ):
        yield running


@pytest.fixture
def client(running: Service) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


def write(running: Service, model: str, card: str) -> None:
    """Into the model's folder, which may be new; whole at once, as one copies with care."""
    folder = Path(running.setting("models_dir")) / model
    folder.mkdir(exist_ok=True)
    (folder / "card.new").write_text(card)
    (folder / "card.new").rename(folder / "card.toml")


def explain(client: httpx.Client, model: str = "tiny") -> httpx.Response:
    form = {"model": model, "class_index": "0"}
    return client.post("/v1/explanations", data=form, files={"input": PICTURE})


def version_of(client: httpx.Client, model: str = "tiny") -> str:
    """Of the model that explains now."""
    answer = explain(client, model)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


def wait_for_card(running: Service, model: str, **wanted: Any) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def look(client: httpx.Client) -> bool:
        found[:] = [client.get(f"/v1/models/{model}").json()]
        return all(found[0].get(name) == value for name, value in wanted.items())

    running.wait_for(look)
    return found[0]


def deaths(folder: Path) -> int:
    return len(list(folder.glob("loaded-*")))


def test_a_model_that_crashes_the_worker_is_quarantined(
    running: Service, client: httpx.Client, folder: Path
) -> None:
    card = wait_for_card(running, "crashes", state="unavailable")
    assert client.get("/v1/models/crashes").status_code == 503
    assert card["problem"]["code"] == "model_quarantined"
    assert "ended the worker process 2 times (last: SIGSEGV)" in card["problem"]["detail"]
    assert deaths(folder) == 2
    for _ in range(3):
        document = problem(explain(client, "crashes"), 503, "model_quarantined")
        assert document["version"] == card["version"]
    assert "Retry-After" not in explain(client, "crashes").headers, "waiting does not mend it"
    version_of(client)
    assert deaths(folder) == 2, "it was not loaded again"
    line = next(m for m in client.get("/v1/models").json()["models"] if m["name"] == "crashes")
    assert (line["ready"], line["problem"]) == (False, card["problem"])


def test_an_operator_has_it_tried_once_more(
    running: Service, client: httpx.Client, folder: Path
) -> None:
    before = deaths(folder)
    asked = client.post("/v1/models/crashes/load")
    document = problem(asked, 503, "model_quarantined")
    assert "POST /v1/models/crashes/load" in document["detail"]
    assert deaths(folder) == before + 1
    running.wait_for(lambda client: explain(client).status_code == 200)
    problem(explain(client, "crashes"), 503, "model_quarantined")


def test_it_is_mended_and_serves(running: Service, client: httpx.Client, folder: Path) -> None:
    before = deaths(folder)
    write(running, "crashes", OTHER)
    mended = wait_for_card(running, "crashes", state="ready", problem=None)
    assert version_of(client, "crashes") == mended["version"]
    assert deaths(folder) == before


def test_a_folder_is_copied_in_broken_mended_and_removed(
    running: Service, client: httpx.Client
) -> None:
    child = running_child(running)
    write(running, "new", TINY)
    first = wait_for_card(running, "new", state="ready")
    assert version_of(client, "new") == first["version"]
    write(running, "new", "source = ")
    broken = wait_for_failure(running, "new")
    assert (broken["state"], broken["version"]) == ("ready", first["version"])
    assert broken["failed_update"]["problem"]["code"] == "invalid_card"
    line = next(m for m in client.get("/v1/models").json()["models"] if m["name"] == "new")
    assert (line["version"], line["failed_update"]) == (first["version"], broken["failed_update"])
    assert version_of(client, "new") == first["version"]
    write(running, "new", OTHER)
    running.wait_for(
        lambda client: client.get("/v1/models/new").json()["version"] != first["version"]
    )
    second = client.get("/v1/models/new").json()
    assert (second["state"], second["failed_update"]) == ("ready", None)
    assert version_of(client, "new") == second["version"]
    shutil.rmtree(Path(running.setting("models_dir")) / "new")
    running.wait_for(lambda client: client.get("/v1/models/new").status_code == 404)
    problem(explain(client, "new"), 404, "model_not_found")
    assert running_child(running) == child, "by the same process"


def wait_for_failure(running: Service, model: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def look(client: httpx.Client) -> bool:
        found[:] = [client.get(f"/v1/models/{model}").json()]
        return found[0]["failed_update"] is not None

    running.wait_for(look)
    return found[0]


def running_child(running: Service) -> int:
    (child,) = psutil.Process(running.processes["workers"].pid).children()
    return child.pid
