"""Keys, links and limits as an operator and a dashboard meet them: real processes, real HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from tests.service import ROOT, Service

SAMPLE = ROOT / "models" / "shapes" / "samples" / "star.png"


def keys(file: Path, *arguments: str) -> str:
    """Standard output of `camserve keys`."""
    done = subprocess.run(
        [sys.executable, "-m", "camserve", "keys", *arguments],
        cwd=ROOT, env=os.environ | {"CAMSERVE_API_KEYS_FILE": str(file)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
def key(file: Path) -> str:
    return keys(file, "add", "dashboard", "--rate", "4")


@pytest.fixture
def front(service: Service, key: str, file: Path, tmp_path: Path) -> Iterator[Service]:
    """A second front end on the shared queue and workers, which asks for keys, and logs all."""
    front = Service(
        service.setting("redis_url"),
        tmp_path,
        tmp_path,
        api_keys_file=str(file),
        host="0.0.0.0",
        log_level="debug",
    )
    front.start("app")
    yield front
    front.stop()


def explain(client: httpx.Client, key: str | None) -> httpx.Response:
    return client.post(
        "/v1/explanations",
        content=SAMPLE.read_bytes(),
        params={"model": "shapes", "size": "96"},
        headers={"Content-Type": "image/png"} | ({"Authorization": f"Bearer {key}"} if key else {}),
    )


def test_the_day_of_a_key(front: Service, service: Service, key: str, file: Path) -> None:
    with front.client() as client:
        refused = explain(client, None)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert client.get(refused.json()["type"]).status_code == 200

        done = explain(client, key)
        assert done.status_code == 200, done.text
        result = done.json()["results"][0]
        # the dashboard's <img src>, and a link that was tampered with
        assert client.get(result["overlay"]["href"]).headers["content-type"] == "image/png"
        assert client.get(result["overlay"]["href"][:-1]).status_code == 401
        assert client.get(done.headers["Location"]).status_code == 401

        assert [explain(client, key).status_code for _ in range(3)] == [200] * 3
        limited = explain(client, key)
        assert limited.status_code == 429
        assert 0 < int(limited.headers["Retry-After"]) <= 15
        assert limited.json()["code"] == "rate_limited"

        keys(file, "remove", "dashboard")
        front.wait_for(
            lambda client: client.get("/v1/models", headers={"X-API-Key": key}).status_code == 401
        )
        # what was linked to is still there, for those who were given the link
        assert client.get(result["map"]["href"]).status_code == 200

    bits = key.removeprefix("camserve_")
    assert re.fullmatch("[0-9a-f]{64}", bits)
    log = front.log.read_text()
    assert "read the API keys again: 0" in log
    assert bits not in log
    assert bits not in service.log.read_text()
    with redis.Redis.from_url(service.setting("redis_url")) as server:
        for name in server.scan_iter("*"):
            assert bits.encode() not in name + (server.dump(name) or b"")
    state = Path(service.setting("redis_url").removeprefix("unix://").partition("?")[0]).parent
    stored = [path for path in state.rglob("*") if path.is_file()]
    assert stored
    assert not [path for path in stored if bits.encode() in path.read_bytes()]
    assert bits not in json.dumps(refused.json() | limited.json())
