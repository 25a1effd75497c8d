"""A connection that sends the most costly bytes there are, and those who call meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.service import Service, make_repository

pytestmark = pytest.mark.anyio

HEAD = b"POST /v1/explanations?model=m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"1\r\nx\r\n" * 90_000 + b"0\r\n\r\n"


async def test_others_get_their_turn_while_a_flood_is_taken_apart(
    redis_url: str, tmp_path: Path
) -> None:
    """It takes two seconds in all; at once, nobody else would be answered before its end."""
    service = Service(redis_url, make_repository(tmp_path / "models"), tmp_path)
    service.start_part("app")
    try:
        await asyncio.to_thread(service.wait_for, lambda one: one.get("/livez").status_code == 200)

        async def flood() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(HEAD + CHUNKS)
            answer = await reader.readline()
            writer.close()
            return answer

        flooding = asyncio.create_task(flood())
        turns = 0

        async def call(client: httpx.AsyncClient) -> None:
            nonlocal turns
            while not flooding.done():
                assert (await client.get("/livez")).status_code == 200
                turns += 1

        # several, lest each turn that is given be missed while this process has to wait for a core
        async with httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as client:
            await asyncio.gather(*(call(client) for _ in range(5)))
        assert b" 503 " in await flooding  # it was read to its end, and there is no worker
        assert turns > 20
    finally:
        service.stop()
