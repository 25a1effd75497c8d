"""A running camserve that sends its traces to a collector of the test's, and logs JSON."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from camserve.broker.embedded import EmbeddedServer
from tests.service import Service
from tests.telemetry.collector import Collector
from tests.workers.cards import factory_card, write_model
from tests.workers.factories import SHAPE, SLOW

__all__ = ["Traced", "new_trace"]


def new_trace(*, sampled: bool = True) -> tuple[str, dict[str, str]]:
    """The id of a caller's trace, and the header that says it."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-0{int(sampled)}"}


@dataclass(frozen=True)
class Traced:
    """folder: where `slow` says that it is `entered`, and waits for `go`; see the factories."""

    service: Service
    collector: Collector
    folder: Path

    def ask(
        self, mark: float = 0.0, *, headers: dict[str, str] | None = None, wait: bool = True
    ) -> httpx.Response:
        """One explanation. mark: the first pixel, which decides what the model does."""
        array = np.zeros(SHAPE, np.float32)
        array[0, 0, 0] = mark
        file = io.BytesIO()
        np.save(file, array)
        sent = {"Content-Type": "application/x-npy", **(headers or {})}
        if not wait:
            sent["Prefer"] = "respond-async"
        with self.service.client() as client:
            return client.post(
                "/v1/explanations",
                params={"model": "slow", "class_index": 1},
                content=file.getvalue(),
                headers=sent,
            )

    def slow_job(self, headers: dict[str, str] | None = None) -> httpx.Response:
        """One that runs when this returns, and until `let_go`."""
        for name in ("entered", "go"):
            (self.folder / name).unlink(missing_ok=True)
        response = self.ask(SLOW, headers=headers, wait=False)
        self.service.wait_for(lambda _: (self.folder / "entered").exists())
        return response

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def succeeded(self, *responses: httpx.Response) -> None:
        """Wait until these have."""
        self.service.wait_for(
            lambda client: all(
                client.get(response.headers["Location"]).json()["state"] == "succeeded"
                for response in responses
            )
        )

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """What was logged with these fields, once there is something."""
        found: list[dict[str, Any]] = []

        def there(_: httpx.Client) -> bool:
            text = self.service.log.read_text()
            every = [json.loads(line) for line in text[: text.rfind("\n")].split("\n")]
            found[:] = [line for line in every if fields.items() <= line.items()]
            return bool(found)

        self.service.wait_for(there)
        return found


@pytest.fixture(scope="package")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = Path(tmp_path_factory.mktemp("traced"))
    models = folder / "models"
    write_model(models, "slow", factory_card("misbehaving", folder=str(folder)))
    with (
        Collector() as collector,
        EmbeddedServer(folder / "state") as server,
        Service(
            server.url,
            models,
            folder,
            environment=collector.environment,
            log_format="json",
            factories="tests.workers.factories:misbehaving",
        ) as service,
    ):
        yield Traced(service, collector, folder)
