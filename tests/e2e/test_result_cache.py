"""A whole service that knows what it has computed: a real worker, and then none."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from camserve.broker.embedded import EmbeddedServer
from camserve.client import Client, Unavailable
from tests.commands.in_process import Camserve, runner
from tests.service import ROOT, Service, make_repository

SAMPLES = ROOT / "models" / "shapes" / "samples"
STAR, CROSS = SAMPLES / "star.png", SAMPLES / "cross.png"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("cached")
    models = make_repository(folder / "models", ROOT / "models" / "shapes")
    with (
        EmbeddedServer(folder / "state") as server,
        Service(server.url, models, folder, result_cache_mb=1) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def camserve(service: Service, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> Camserve:
    return runner(service.url, monkeypatch, capfdbinary)


def explain(
    http: httpx.Client, picture: Path, headers: Any = None, **fields: str
) -> httpx.Response:
    response = http.post(
        "/v1/explanations",
        files={"input": (picture.name, picture.read_bytes())},
        data={"model": "shapes"} | fields,
        headers=headers,
    )
    assert response.status_code == 200, response.text
    return response


def test_the_service_answers_again_as_it_did(http: httpx.Client) -> None:
    first = explain(http, STAR, class_label="star", map="list", size="32x32")
    again = explain(http, STAR, class_label="star", map="list", size="32x32")
    assert first.headers["Cache-Status"] == "camserve; fwd=miss; stored"
    assert again.headers["Cache-Status"] == "camserve; hit"
    for one, other in zip(first.json()["results"], again.json()["results"], strict=True):
        assert one["map"]["data"] == other["map"]["data"]
        assert one["target"] == other["target"]
        overlays = [http.get(result["overlay"]["href"]).content for result in (one, other)]
        assert overlays[0] == overlays[1]
    # and as it would if it computed: index and label, in another form and style
    asked = {"class_index": str(first.json()["results"][0]["target"]["class_index"])}
    accepted = {"Accept": "application/x-npy"}
    known = explain(http, STAR, accepted, convention="captum", **asked)
    afresh = explain(
        http, STAR, accepted | {"Cache-Control": "no-cache"}, convention="captum", **asked
    )
    assert known.headers["Cache-Status"] == "camserve; hit"
    assert afresh.headers["Cache-Status"] == "camserve; fwd=request; stored"
    np.testing.assert_allclose(
        np.load(io.BytesIO(known.content)), np.load(io.BytesIO(afresh.content)), atol=1e-6
    )


def test_the_client_and_the_command_line(
    service: Service, camserve: Camserve, tmp_path: Path
) -> None:
    with Client(service.url) as client:
        first = client.explain(CROSS, model="shapes", class_index=1)
        again = client.explain(CROSS, model="shapes", class_index=1)
        afresh = client.explain(CROSS, model="shapes", class_index=1, no_cache=True)
        found = [one.document.computation.cache for one in (first, again, afresh)]
        assert found == [None, "result", None]
        predicted = [
            client.predict(CROSS, model="shapes", no_cache=no_cache).computation.cache
            for no_cache in (None, False, True)
        ]
        assert predicted == [None, "result", None]
        assert client.submit(CROSS, model="shapes", class_index=1).state == "succeeded"
    asked = ("explain", CROSS, "-m", "shapes", "--class", 1, "--json")
    assert camserve(*asked).json["computation"]["cache"] == "result"
    assert camserve(*asked, "--no-cache").json["computation"]["cache"] is None
    of_model = ("predict", CROSS, "-m", "shapes", "--json")
    assert camserve(*of_model).json["computation"]["cache"] == "result"
    assert camserve(*of_model, "--no-cache").json["computation"]["cache"] is None
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "cross.png").symlink_to(CROSS)
    batch = ("explain", folder, "-m", "shapes", "--out", tmp_path / "out", "--json")
    assert camserve(*batch).json["succeeded"] == 1
    skipped = camserve(*batch, "--no-cache").json
    assert (skipped["succeeded"], skipped["skipped"]) == (0, 1), "the same results were asked for"


def test_without_workers_what_is_known_is_answered(service: Service, http: httpx.Client) -> None:
    known = explain(http, STAR, class_index="0")
    workers = service.processes.pop("workers")
    workers.terminate()
    workers.wait(100)
    service.wait_for(lambda client: client.get("/readyz").status_code == 503)
    again = explain(http, STAR, class_index="0", colormap="jet")
    assert again.headers["Cache-Status"] == "camserve; hit"
    assert again.json()["results"][0]["target"] == known.json()["results"][0]["target"]
    with Client(service.url, timeout_s=1) as client:
        for unknown in ({"class_index": 2}, {"class_index": 0, "no_cache": True}):
            with pytest.raises(Unavailable):
                client.explain(STAR, model="shapes", **unknown)
    lines = http.get("/metrics").text.splitlines()
    assert any(line.startswith("camserve_result_cache_lookups_total{") for line in lines)
    assert json.loads(http.get(again.json()["href"]).content)["computation"]["cache"] == "result"
