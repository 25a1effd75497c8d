"""The task of a front end that delivers what is due, a few at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from structlog.contextvars import bound_contextvars

from app.outbound.connections import CheckedConnections
from app.outbound.urls import HttpUrl, parse_url
from app.state import AppState
from app.webhooks.events import event_body, message_id
from app.webhooks.sending import Outcome, Sender
from app.webhooks.turns import Turns
from camserve.broker import Deliveries, Delivery, JobRecord
from camserve.contracts.deliveries import DeliveryOutcome
from camserve.contracts.jobs import Job
from camserve.errors import ExplanationNotFound, QueueUnavailable
from camserve.logs import get_logger
from camserve.tracing import context_of, tracer

__all__ = ["Dispatcher"]

logger = get_logger(__name__)

LOOK_S: Final = 1.0
GRACE_S: Final = 1.0  # for what is under way when the front end stops


class Dispatcher:
    """Claims deliveries under a lease, makes one attempt of each, and settles it.

    Whoever dies with one loses it to another front end when the lease ends: so a receiver gets
    each event at least once, and knows a repeated one by its id.
    """

    def __init__(
        self, state: AppState, deliveries: Deliveries, connections: CheckedConnections
    ) -> None:
        self._state = state
        self._deliveries = deliveries
        self._schedule = state.webhooks.schedule
        self._sender = Sender(connections, state.webhooks.signer, self._schedule.timeout_s)
        self._turns = Turns(state.webhooks.at_once)
        self._under_way: set[asyncio.Task[None]] = set()
        self._attempts: set[asyncio.Timeout] = set()
        self._end_s: float | None = None  # by the event loop, once it is known

    async def run(self) -> None:
        """Until it is cancelled; what is under way then gets a moment, and goes back to others."""
        with self._state.queue.news_of_deliveries() as news:
            try:
                while True:
                    news.clear()
                    await self._begin(news)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):
                            await news.wait()
            finally:
                self._end_s = asyncio.get_running_loop().time() + GRACE_S
                for attempt in self._attempts:
                    attempt.reschedule(self._end_s)
                await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _begin(self, news: asyncio.Event) -> None:
        """Begins what is due and finds a place. What ends is news: it leaves one."""
        free = self._state.webhooks.at_once - len(self._under_way)
        due: list[Delivery] = []
        try:
            if free:
                due = await self._deliveries.claim(free, self._schedule.lease_s)
        except QueueUnavailable:
            pass  # requests say so; this goes on
        except Exception:
            logger.exception("deliveries were not claimed, and will be")
        for delivery in due:
            task = asyncio.create_task(self._deliver(delivery))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            task.add_done_callback(lambda _: news.set())

    async def _deliver(self, delivery: Delivery) -> None:
        """One attempt. Whatever goes wrong with the queue, the lease ends and it is repeated."""
        lease_ends_s = asyncio.get_running_loop().time() + self._schedule.lease_s
        try:
            record = await self._state.queue.get(delivery.job_id)
            if record is None:
                return  # it is gone, and its delivery with it
            outcome = await self._before_the_end(record)
            if outcome is None:
                wait_s = self._schedule.timeout_s if self._end_s is None else 0.0
                await self._deliveries.release(delivery, wait_s)
            else:
                await self._settle(delivery, record, outcome, lease_ends_s)
        except QueueUnavailable:
            logger.warning("Redis went away: a delivery is repeated", job_id=delivery.job_id)

    async def _before_the_end(self, record: JobRecord) -> Outcome | None:
        """The outcome of an attempt; None if the front end stops before there is one, or if it is
        not its receiver's turn."""
        try:
            async with asyncio.timeout_at(self._end_s) as attempt:
                self._attempts.add(attempt)
                try:
                    return await self._attempted(record)
                finally:
                    self._attempts.discard(attempt)
        except TimeoutError:
            return None

    async def _attempted(self, record: JobRecord) -> Outcome | None:
        """Raises QueueUnavailable, and nothing else."""
        try:
            job = Job.model_validate_json(record.document)
            url = parse_url(job.webhook or "")
            with self._turns.taken(url.origin) as granted:
                if not granted:
                    return None
                with _traced(job, record, url) as span:
                    body = await event_body(self._state, record)
                    outcome = await self._sender.send(url, message_id(record.id), body)
                    _note(span, outcome)
        except QueueUnavailable:
            raise
        except ExplanationNotFound:
            return Outcome(error="the result is no longer kept", is_final=True)
        except Exception:
            logger.exception("a webhook was not sent", job_id=record.id)
            return Outcome(error="camserve could not send it: its log says why")
        self._turns.note(url.origin, is_silent=outcome.is_silent)
        return outcome

    async def _settle(
        self, delivery: Delivery, record: JobRecord, outcome: Outcome, lease_ends_s: float
    ) -> None:
        """Notes the outcome, in spite of an outage that is over before the lease is."""
        clock = asyncio.get_running_loop()
        while True:
            try:
                return await self._note(delivery, record, outcome)
            except QueueUnavailable:
                if clock.time() + LOOK_S >= (self._end_s or lease_ends_s):
                    raise
                await asyncio.sleep(LOOK_S)

    async def _note(self, delivery: Delivery, record: JobRecord, outcome: Outcome) -> None:
        attempts = (record.delivery.attempts if record.delivery else 0) + 1
        noted = DeliveryOutcome(status=outcome.status, error=outcome.error)
        document = noted.model_dump_json().encode()
        if outcome.is_delivered:
            await self._deliveries.settle(delivery, "delivered", document)
            return
        delay_s = None
        if not outcome.is_final:
            delay_s = self._schedule.delay_s(attempts, outcome.wish_s)
        if delay_s is not None:
            await self._deliveries.retry(delivery, delay_s, document)
            return
        logger.warning(
            "a webhook is given up", job_id=record.id, attempts=attempts, reason=outcome.error
        )
        await self._deliveries.settle(delivery, "failed", document)


@contextlib.contextmanager
def _traced(job: Job, record: JobRecord, url: HttpUrl) -> Iterator[Span]:
    """One attempt, as a span of the request that asked for it, and lines with its ids."""
    attributes = {"server.address": url.host, "messaging.message.id": record.id}
    with (
        bound_contextvars(job_id=record.id, request_id=job.request_id),
        tracer.start_as_current_span(
            "deliver webhook",
            context_of(job.trace),
            SpanKind.CLIENT,
            attributes,
            record_exception=False,
        ) as span,
    ):
        yield span


def _note(span: Span, outcome: Outcome) -> None:
    if outcome.status is not None:
        span.set_attribute("http.response.status_code", outcome.status)
    if not outcome.is_delivered:
        span.set_status(Status(StatusCode.ERROR))
