"""HTTP/1.1 by h11, with an eye on clients that send without end, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.problems import problem_response
from app.surplus_connections import as_surplus
from camserve.errors import CamserveError, MalformedRequest, RequestTimeout

__all__ = ["ConnectionLimits", "Protocol"]

PORTION: Final = 8192  # bytes
BODY_PORTION: Final = 262_144
UNWANTED_S: Final = 2.0  # for the request of a connection that is one too many


@dataclass(frozen=True)
class ConnectionLimits:
    """stall_s: how long a head may take, and how long a client may read nothing of its answer.
    connections: how many are served at once."""

    stall_s: float
    connections: int


class Protocol(H11Protocol):
    """One connection.

    Takes what comes in small portions: all of one is parsed at once, 20 µs a header or chunk, of
    which asyncio's 256 KB hold forty thousand. Who sends nothing else needs no key for it, and
    would keep all others waiting for seconds. Of a body whose length was announced nothing is
    parsed, and it comes in large portions: a photograph in 8 KB each costs more than its decoding.

    Between requests, uvicorn's keep-alive limit holds; while a route reads a body, that of
    `app.stalled_bodies`. The rest is bounded here: a head that does not come to its end, a body
    that nobody reads, and an answer that is not taken.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._patience_s = limits.stall_s
        self._silence: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._body_of: object = None
        self._body_left = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.max_size = PORTION  # type: ignore[attr-defined]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._patience_s = min(UNWANTED_S, self._limits.stall_s)
            self.app = as_surplus(self.app, self._limits.connections)
        self._watch_silence()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_silence()
        self._end_taking()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.SEND_BODY:  # it moves
            self._end_silence()
        self.transport.max_size = self._portion(len(data))  # type: ignore[attr-defined]
        self._watch_silence()

    def _portion(self, received: int) -> int:
        """How much may come next: never more than is surely left of a body, lest heads come along.

        received: what came just now.
        """
        if self.conn.their_state is not h11.SEND_BODY:
            return PORTION
        if self._body_of is not self.cycle:
            self._body_of, self._body_left = self.cycle, _announced(self.headers)
        self._body_left -= received
        return max(PORTION, min(self._body_left, BODY_PORTION))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_silence()
        if self.transport.get_write_buffer_size():
            self._watch_taking()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_idle(self) -> bool:
        """Whether it is between requests: nothing was asked that has no answer, not even half."""
        return not self.is_busy and not self._head_has_begun

    def leave(self) -> None:
        """Close it, if it is idle; else its answer says that it is the last one."""
        if self.is_idle:
            self.transport.close()

    @property
    def _head_has_begun(self) -> bool:
        return bool(self.conn.trailing_data[0])

    def _watch_silence(self) -> None:
        """A client of which we want to hear has so long; whether it says something or not, if it
        is a head, so that none is sent for hours."""
        is_awaited = (
            self.cycle is None or self._head_has_begun or self.conn.their_state is h11.SEND_BODY
        )
        if self.is_busy or self.transport.is_closing() or not is_awaited:
            self._end_silence()
        elif self._silence is None:
            self._silence = self.loop.call_later(self._patience_s, self._silent)

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _silent(self) -> None:
        self._silence = None
        if self.conn.our_state is h11.IDLE and self._head_has_begun:
            self._refuse(RequestTimeout(self._patience_s))
        else:  # who has said nothing is told nothing, and who was answered has his answer
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's English
        """Instead of uvicorn's plain text."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._refuse(MalformedRequest("the bytes that came are no HTTP/1.1 request"))
        else:  # an answer has begun
            self.transport.close()

    def _refuse(self, error: CamserveError) -> None:
        """The answer to what is no request yet."""
        response = problem_response(error)
        response.headers["Connection"] = "close"
        head = h11.Response(
            status_code=response.status_code,
            reason=HTTPStatus(response.status_code).phrase,
            headers=[*self.server_state.default_headers, *response.raw_headers],
        )
        for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_taking()

    def _watch_taking(self) -> None:
        if self._taking is None:
            self._taking = self.loop.call_later(
                self._limits.stall_s, self._look_at_taking, self._untaken(), self.cycle
            )

    def _end_taking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _look_at_taking(self, left_before: int, cycle_before: object) -> None:
        """Cut off who has taken nothing of the answer since the last look, nor asked anything."""
        self._taking = None
        if self._untaken() >= left_before and self.cycle is cycle_before:
            self.transport.abort()
        elif self.transport.get_write_buffer_size():
            self._watch_taking()

    def _untaken(self) -> int:
        """Bytes that the client has not acknowledged, those that the kernel holds included: these
        may be megabytes, and only when a third of them is gone does it take more from us."""
        held = bytes(4)
        # only Linux says
        with contextlib.suppress(OSError):
            held = fcntl.ioctl(self.transport.get_extra_info("socket"), termios.TIOCOUTQ, held)
        waiting: int = struct.unpack("i", held)[0]
        return waiting + self.transport.get_write_buffer_size()


def _announced(headers: list[tuple[bytes, bytes]]) -> int:
    """Bytes of the body, by a head that h11 has checked; 0 of one that comes in chunks."""
    said = dict(headers)
    return 0 if b"transfer-encoding" in said else int(said.get(b"content-length", b"0"))
