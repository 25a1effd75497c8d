from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.app.outbound.web_server import WebServer, web_server


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that is put off by a moment begins a moment later."""
    monkeypatch.setattr("app.webhooks.dispatcher.LOOK_S", 0.05)


@pytest.fixture
async def receiver() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server
