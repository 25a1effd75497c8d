"""Each front end and each worker supervisor is restarted in turn, under load: nobody notices."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from camserve.broker.embedded import EmbeddedServer
from tests.service import ROOT, Service, make_repository

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(600)]

SAMPLES = {
    name: (ROOT / "models" / "shapes" / "samples" / f"{name}.png").read_bytes()
    for name in ("star", "heart")
}
FORM = "/v1/explanations"
CLIENTS = 6
SETTLES_S = 3.0  # of load between two restarts
OPEN = {"queued", "running"}


@dataclass
class Client:
    """Calls one front end, on connections that it keeps, until nobody listens there; then another.

    It repeats nothing but a call whose connection was refused: whatever else goes wrong is noted.
    """

    urls: list[str]
    truth: dict[str, float]
    done: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = _client(self.urls[0])

    async def run(self, stop: asyncio.Event) -> None:
        calls = (self.at_once, self.later, self.followed, self.guessed)
        number = 0
        while not stop.is_set():
            label = ("star", "heart")[number % 2]
            try:
                await calls[number % len(calls)](label)
            except Exception as error:  # noqa: BLE001 - any is one too many
                self.wrong.append(f"{calls[number % len(calls)].__name__}: {error!r}")
            number += 1

    async def _ask(self, method: str, url: str, **options: Any) -> httpx.Response:
        while True:
            try:
                response = await self.client.request(method, url, **options)
            except httpx.ConnectError:
                await self._turn()
                continue
            self.statuses[response.status_code] += 1
            if response.status_code not in (200, 202):
                raise AssertionError(f"{response.status_code} {response.text}")
            return response

    async def _turn(self) -> None:
        self.refused += 1
        self.urls = [*self.urls[1:], self.urls[0]]
        await self.client.aclose()
        self.client = _client(self.urls[0])
        await asyncio.sleep(0.05)

    async def _explain(self, label: str, **headers: str) -> httpx.Response:
        return await self._ask(
            "POST",
            FORM,
            data={"model": "shapes", "class_label": label, "size": "feature"},
            files={"input": SAMPLES[label]},
            headers=headers,
        )

    async def at_once(self, label: str) -> None:
        response = await self._explain(label)
        while (explanation := response.json())["state"] in OPEN:  # the front end had to go
            response = await self._ask("GET", f"{FORM}/{explanation['id']}")
        self._check(label, explanation)

    async def later(self, label: str) -> None:
        response = await self._explain(label, Prefer="respond-async")
        while (explanation := response.json())["state"] in OPEN:
            await asyncio.sleep(0.1)
            response = await self._ask("GET", f"{FORM}/{explanation['id']}")
        self._check(label, explanation)

    async def followed(self, label: str) -> None:
        explanation = (await self._explain(label, Prefer="respond-async")).json()
        seen: dict[str, str] = {}
        while explanation["state"] in OPEN:
            url = f"{FORM}/{explanation['id']}/events"
            try:
                async with self.client.stream("GET", url, headers=seen) as response:
                    self.statuses[response.status_code] += 1
                    assert response.status_code == 200, response.status_code
                    async for line in response.aiter_lines():
                        if line.startswith("id:"):
                            seen = {"Last-Event-ID": line[3:].strip()}
                        if line.startswith("data:"):
                            explanation = json.loads(line[5:])
            except httpx.ConnectError:
                await self._turn()
        self._check(label, explanation)

    async def guessed(self, label: str) -> None:
        response = await self._ask(
            "POST",
            "/v1/models/shapes/predict?top=1",
            content=SAMPLES[label],
            headers={"Content-Type": "image/png"},
        )
        assert label in response.text, response.text

    def _check(self, label: str, explanation: dict[str, Any]) -> None:
        assert explanation["state"] == "succeeded", explanation
        assert explanation["attempts"] == 1, explanation["attempts"]
        (result,) = explanation["results"]
        assert result["target"]["score"] == pytest.approx(self.truth[label], rel=1e-3)
        self.done.append(explanation["id"])


async def _hasty(ports: list[int], stop: asyncio.Event) -> list[str]:
    """A new connection for each call, one after the other; what went wrong."""
    wrong = []
    while not stop.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
        except ConnectionRefusedError:
            ports = [*ports[1:], ports[0]]
            continue
        try:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if b" 200 " not in (answer := await reader.read()):
                wrong.append(f"answered {answer!r}")
        except ConnectionError as error:  # its connection was made, and nobody served it
            wrong.append(repr(error))
        finally:
            writer.close()
        await asyncio.sleep(0.001)
    return wrong


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)


async def test_nothing_is_lost_done_twice_or_refused(tmp_path: Path) -> None:
    models = make_repository(tmp_path / "models", ROOT / "models" / "shapes")
    with EmbeddedServer(tmp_path / "state") as server:
        hosts = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            hosts.append(Service(server.url, models, tmp_path / name, deadline_s=300))
        try:
            for host in hosts:
                await asyncio.to_thread(host.start)
            await _under_load(hosts, server.url)
        finally:
            for host in hosts:
                await asyncio.to_thread(host.stop)
    for host in hosts:
        assert "Traceback" not in host.log.read_text()


async def _under_load(hosts: list[Service], redis_url: str) -> None:
    truth = await _truth(hosts[0].url)
    urls = [host.url for host in hosts]
    clients = [Client([*urls[i % 2 :], *urls[: i % 2]], truth) for i in range(CLIENTS)]
    stop = asyncio.Event()
    running = [asyncio.create_task(client.run(stop)) for client in clients]
    ports = [host.port for host in hosts]
    hasty = [asyncio.create_task(_hasty(ports[::step], stop)) for step in (1, 1, -1, -1)]
    try:
        for host in hosts:
            for part in ("app", "workers"):
                await asyncio.sleep(SETTLES_S)
                await asyncio.to_thread(_restart, host, part)
        await asyncio.sleep(SETTLES_S)
    finally:
        stop.set()
        await asyncio.gather(*running, *hasty)
        for client in clients:
            await client.client.aclose()
    assert [client.wrong for client in clients] == [[]] * CLIENTS
    assert [one.result() for one in hasty] == [[]] * len(hasty)
    assert sum(client.refused for client in clients) > 0  # they had to turn elsewhere
    done = [one for client in clients for one in client.done]
    assert len(done) == len(set(done)) > 100
    with redis.Redis.from_url(redis_url) as store:
        kept = [key.decode().rsplit(":", 1)[1] for key in store.scan_iter("cam:*:job:*")]
        assert sorted(kept) == sorted([*done, *truth["ids"]])  # none that nobody was told of
        assert sum(store.xlen(stream) for stream in store.scan_iter("cam:*:stream:*")) == 0


def _restart(host: Service, part: str) -> None:
    """As a deployment does: told to stop, waited for, started anew, waited for."""
    log_before = len(host.log.read_text())
    process = host.processes[part]
    process.terminate()
    assert process.wait(60) == 0
    host.start_part(part)
    if part == "app":
        host.wait_ready()
    else:
        host.wait_for(lambda _: "worker ready" in host.log.read_text()[log_before:])


async def _truth(url: str) -> dict[str, Any]:
    """What is right, by label, while nothing is stopped."""
    found: dict[str, Any] = {"ids": []}
    async with _client(url) as client:
        for label, picture in SAMPLES.items():
            form = {"model": "shapes", "class_label": label, "size": "feature"}
            response = await client.post(FORM, data=form, files={"input": picture})
            explanation = response.json()
            found["ids"].append(explanation["id"])
            found[label] = explanation["results"][0]["target"]["score"]
    return found
