"""A front end on an empty server, with one model that the test itself serves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.app.front import Front, running_front


@pytest.fixture
async def front(redis_url: str) -> AsyncIterator[Front]:
    async with running_front(redis_url) as running:
        await running.publish()
        yield running
