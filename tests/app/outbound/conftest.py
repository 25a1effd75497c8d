from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.app.outbound.web_server import WebServer, web_server


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server
