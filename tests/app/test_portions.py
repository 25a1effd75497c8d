"""How much of a connection is taken at once: much of a body, and little of what must be parsed."""

from __future__ import annotations

import pytest

from app.http_protocol import BODY_PORTION, PORTION, Protocol
from tests.app.serving import serving

pytestmark = pytest.mark.anyio

BODY = bytes(1_000_000)
POST = b"POST /v1/explanations?model=m HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"


@pytest.fixture
def portions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    found: list[bytes] = []
    real = Protocol.data_received

    def data_received(self: Protocol, data: bytes) -> None:
        found.append(data)
        real(self, data)

    monkeypatch.setattr(Protocol, "data_received", data_received)
    return found


async def test_a_body_comes_in_large_portions_and_nothing_else_does(
    redis_url: str, portions: list[bytes]
) -> None:
    """Whatever comes behind it on the connection is not taken along with it."""
    head = POST + f"Content-Length: {len(BODY)}\r\n\r\n".encode()
    sent = head + BODY + CHUNKED + head + BODY
    async with serving(redis_url) as served, served.connection() as (reader, writer):
        writer.write(sent)
        for _ in range(3):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b" 503 " in answer  # there is no worker
            length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
    assert b"".join(portions) == sent
    assert PORTION < max(map(len, portions)) <= BODY_PORTION
    assert len(portions) < len(sent) / PORTION / 2
    place = 0
    for portion in portions:
        inside = [(len(head), len(head) + len(BODY)), (len(sent) - len(BODY), len(sent))]
        if not any(start <= place and place + len(portion) <= end for start, end in inside):
            assert len(portion) <= PORTION
        place += len(portion)


async def test_a_body_in_chunks_that_also_announces_its_length_comes_in_small_ones(
    redis_url: str, portions: list[bytes]
) -> None:
    """By h11 it would be one in chunks: its length must not count."""
    both = CHUNKED.replace(b"Host: x", b"Host: x\r\nContent-Length: 1000000", 1)
    async with serving(redis_url) as served, served.connection() as (reader, writer):
        writer.write(both)
        await reader.readline()
    assert max(map(len, portions)) <= PORTION
