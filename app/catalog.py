"""What the front end knows of models: the cards and heartbeats that workers publish to Redis."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from functools import lru_cache

from pydantic import ValidationError

from camserve.broker import JobQueue, Priority, Registry, State, fits, new_job_id
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job
from camserve.errors import (
    CamserveError,
    ErrorCode,
    Failure,
    ModelLoading,
    ModelNotFound,
    ModelUnavailable,
    NoWorker,
)
from camserve.live_workers import live_workers
from camserve.settings import Settings

__all__ = ["Catalog"]

logger = logging.getLogger(__name__)

WORKERS_FRESH_S = 0.5  # how old the list of live workers may be
LOADING_RETRY_AFTER_S = 5


@lru_cache(maxsize=256)
def _parsed(card: bytes) -> ResolvedCard | None:
    """None for the card of a worker of another version, as there are during an upgrade."""
    # a card with hundreds of layers takes milliseconds to parse, and rarely changes
    try:
        return ResolvedCard.model_validate_json(card)
    except ValidationError as error:
        logger.warning("a model card of another version is left out: %s", error)
        return None


class Catalog:
    """Models by name. Loads a model on first use by asking a worker through the queue."""

    def __init__(self, registry: Registry, queue: JobQueue, settings: Settings) -> None:
        self._registry = registry
        self._queue = queue
        self._settings = settings
        self._workers: tuple[WorkerStatus, ...] = ()
        self._workers_read_s = float("-inf")
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._failed_s: dict[str, float] = {}

    async def cards(self) -> list[ResolvedCard]:
        """All cards, by name. Raises QueueUnavailable."""
        cards = await self._registry.cards()
        parsed = [_parsed(cards[name]) for name in sorted(cards)]
        return [card for card in parsed if card is not None]

    async def card(self, name: str) -> ResolvedCard:
        """One card, in whatever state. Raises ModelNotFound, NoWorker, QueueUnavailable."""
        card = await self.find(name)
        if card is None:
            known, workers = await self._registry.cards(), await self.workers()
            if not known and not workers:
                raise NoWorker(None)  # nobody has told us yet which models there are
            if any(name in worker.models for worker in workers):
                raise NoWorker(name)  # Redis lost its data, and it is about to be published again
            raise ModelNotFound(name, known)
        return card

    async def find(self, name: str) -> ResolvedCard | None:
        """One card, if there is one. Raises QueueUnavailable."""
        card = await self._registry.card(name)
        return None if card is None else _parsed(card)

    async def workers(self, *, fresh: bool = False) -> tuple[WorkerStatus, ...]:
        """Live workers, and those about to be replaced; by a look at most half a second old, or by
        a fresh one. Raises QueueUnavailable."""
        now_s = time.monotonic()
        if fresh or now_s - self._workers_read_s > WORKERS_FRESH_S:
            self._workers = await live_workers(self._registry)
            self._workers_read_s = now_s
        return self._workers

    async def proven_workers(self) -> int:
        """How many workers have shown lately that they can explain. Raises QueueUnavailable."""
        workers = await self.workers(fresh=True)
        return sum(worker.is_proven(self._settings.proof_lasts_s) for worker in workers)

    async def check_execution(self, model: str, execution: str) -> None:
        """Raises NoWorker unless a live worker of the model has such a device."""
        devices = {w.device for w in await self.workers() if model in w.models}
        if not any(fits(execution, device) for device in devices):
            raise NoWorker(model, execution=execution, devices=sorted(devices))

    async def ready_card(self, name: str, patience_s: float) -> ResolvedCard:
        """The card of a model that a live worker can explain; loads it on first use.

        Waits for the load up to `patience_s`, or the server's limit if that is less. Raises
        ModelNotFound, NoWorker, ModelLoading, ModelUnavailable (and what else a load may fail
        with), QueueUnavailable.
        """
        card = await self.card(name)
        if not any(name in worker.models for worker in await self.workers()):
            if card.problem is not None:
                raise _with_retry(card.problem, self._settings.retry_load_s)
            raise NoWorker(name)
        if card.state == "ready":
            return card
        if card.problem is not None and not self._may_retry(name, card.problem):
            raise _with_retry(card.problem, self._rest_s(name))
        await self._load(card, min(patience_s, self._settings.sync_wait_s))
        card = await self.card(name)
        if card.state != "ready":
            problem = card.problem or FailureMessage.of(
                ModelUnavailable(f"model {name!r} could not be loaded")
            )
            raise _with_retry(problem, self._settings.retry_load_s)
        return card

    def _may_retry(self, name: str, problem: FailureMessage) -> bool:
        """A hub may come back; a wrong card stays wrong until its folder changes."""
        if problem.code is not ErrorCode.MODEL_UNAVAILABLE:
            return False
        return self._rest_s(name) < 0

    def _rest_s(self, name: str) -> float:
        """How long until a load that failed is tried again."""
        failed_s = self._failed_s.get(name, float("-inf"))
        return failed_s + self._settings.retry_load_s - time.monotonic()

    async def _load(self, card: ResolvedCard, patience_s: float) -> None:
        """Have a worker load the model; all requests of this process share one load job."""
        task = self._loads.get(card.name)
        if task is None:
            task = asyncio.create_task(self._run_load(card))
            self._loads[card.name] = task
            task.add_done_callback(lambda _: self._loads.pop(card.name, None))
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.shield(task)
        except TimeoutError as error:
            raise _still_loading(card.name) from error

    async def _run_load(self, card: ResolvedCard) -> None:
        job = Job(kind="load", model=card.name, model_version=card.version)
        job_id = new_job_id(card.name)
        limit_s = self._settings.load_time_limit_s
        await self._queue.enqueue(
            job_id=job_id,
            priority=Priority.INTERACTIVE,
            time_to_deadline_ms=round(limit_s * 1000),
            payload=b"",
            document=job.model_dump_json().encode(),
            measured=False,
        )
        began_s = time.monotonic()
        record = await self._queue.wait(job_id, limit_s)
        was_cut_short = time.monotonic() - began_s < limit_s
        if record is not None and not record.is_terminal and was_cut_short:
            raise _still_loading(card.name)  # this front end is being stopped, and it goes on
        if record is None or record.state is not State.SUCCEEDED:
            self._failed_s[card.name] = time.monotonic()
            if record is not None and record.state is State.FAILED and record.failure:
                raise _with_retry(
                    FailureMessage.model_validate_json(record.failure), self._settings.retry_load_s
                )
        else:
            self._failed_s.pop(card.name, None)


def _still_loading(name: str) -> ModelLoading:
    return ModelLoading(
        f"model {name!r} is being loaded for the first time; try again in "
        f"{LOADING_RETRY_AFTER_S} s",
        retry_after_s=LOADING_RETRY_AFTER_S,
    )


def _with_retry(problem: FailureMessage, retry_after_s: float) -> CamserveError:
    """The problem of a load, with the time after which it is tried again if that can help."""
    if problem.code is not ErrorCode.MODEL_UNAVAILABLE:
        return problem.to_error()
    return Failure(
        problem.code,
        problem.detail,
        **{**problem.extensions, "retry_after_s": math.ceil(retry_after_s)},
    )
