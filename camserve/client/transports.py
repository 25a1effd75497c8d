"""The transports: they do the steps of operations, and nothing else. One for threads, one for event
loops."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import TypeVar

import anyio
import httpx
from anyio.to_thread import run_sync

from camserve.client import operations
from camserve.client.calls import Answer, Call, Lost
from camserve.client.endpoint import Endpoint, OnWait, request_of
from camserve.client.following import OK, Following
from camserve.client.operations import Operation, Outcome, Send, Step
from camserve.client.retries import Wait
from camserve.contracts.explanations import Explanation

__all__ = ["AsyncTransport", "SyncTransport"]

T = TypeVar("T")


class SyncTransport:
    """Does the steps of operations, one after the other."""

    def __init__(self, endpoint: Endpoint, on_wait: OnWait | None) -> None:
        self.endpoint = endpoint
        self._http = httpx.Client(**endpoint.client_options())
        self._on_wait = on_wait

    def close(self) -> None:
        self._http.close()

    def read(self, kind: type[operations.M], call: Call) -> operations.M:
        """A message that is answered at once."""
        return self.run(operations.message_of(kind, call, self.endpoint.patience))

    def run(self, operation: Operation[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = operation.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            outcome = self._do(step)

    def _do(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            return self._send(step)
        self._pause(step)
        return None

    def _pause(self, wait: Wait) -> None:
        if self._on_wait is not None:
            self._on_wait(wait)
        time.sleep(wait.seconds)

    def follow(self, following: Following) -> Iterator[Explanation]:
        """Each event of a stream, through all its connections."""
        while (step := following.step()) is not None:
            if not isinstance(step, Send):
                self._pause(step)
                continue
            request = request_of(self._http, step)
            try:
                with closing(self._http.send(request, stream=True)) as response:
                    if response.status_code == OK:
                        for part in response.iter_bytes():
                            yield from following.feed(part, request.url)
                        following.ended(request.url)
                        continue
                    body = response.read()
            except httpx.RequestError as error:
                following.lost(Lost(error, request.url))
                continue
            following.answered(Answer(response.status_code, response.headers, body, request.url))

    def _send(self, send: Send) -> Answer | Lost:
        request = request_of(self._http, send)
        until_s = time.monotonic() + send.timeout_s
        try:
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > until_s:  # httpx's own timeout is for each part
                        raise httpx.ReadTimeout("the answer was not whole in time")
            finally:
                response.close()
        except httpx.RequestError as error:
            return Lost(error, request.url)
        return Answer(response.status_code, response.headers, bytes(body), request.url)


class AsyncTransport:
    """Does the steps of operations, one after the other."""

    def __init__(self, endpoint: Endpoint, on_wait: OnWait | None) -> None:
        self.endpoint = endpoint
        self._http = httpx.AsyncClient(**endpoint.client_options())
        self._on_wait = on_wait

    async def aclose(self) -> None:
        await self._http.aclose()

    async def read(self, kind: type[operations.M], call: Call) -> operations.M:
        """A message that is answered at once."""
        return await self.run(operations.message_of(kind, call, self.endpoint.patience))

    async def run(self, operation: Operation[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = operation.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            outcome = await self._do(step)

    async def _do(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            return await self._send(step)
        await self._pause(step)
        return None

    async def _pause(self, wait: Wait) -> None:
        if self._on_wait is not None:
            self._on_wait(wait)
        await anyio.sleep(wait.seconds)

    async def follow(self, following: Following) -> AsyncIterator[Explanation]:
        """Each event of a stream, through all its connections."""
        while (step := following.step()) is not None:
            if not isinstance(step, Send):
                await self._pause(step)
                continue
            request = request_of(self._http, step)
            try:
                async with aclosing(await self._http.send(request, stream=True)) as response:
                    if response.status_code == OK:
                        async for part in response.aiter_bytes():
                            for document in following.feed(part, request.url):
                                yield document
                        following.ended(request.url)
                        continue
                    body = await response.aread()
            except httpx.RequestError as error:
                following.lost(Lost(error, request.url))
                continue
            following.answered(Answer(response.status_code, response.headers, body, request.url))

    async def _send(self, send: Send) -> Answer | Lost:
        request = await run_sync(request_of, self._http, send)
        try:
            # httpx's own timeout is for each part of the answer
            with anyio.fail_after(send.timeout_s):
                response = await self._http.send(request)
        except httpx.RequestError as error:
            return Lost(error, request.url)
        except TimeoutError:
            return Lost(httpx.ReadTimeout("the answer was not whole in time"), request.url)
        return Answer(response.status_code, response.headers, response.content, request.url)
