"""The front end, put together: `uvicorn --factory app.main:create_app`, or `python -m app`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from app import problems
from app.catalog import Catalog
from app.cross_origin import allow_origins
from app.documentation import DESCRIPTION, TAGS, document
from app.exposition import Exposition, ProcessMetrics
from app.guard import Guard
from app.head_requests import HeadRequests
from app.input_cache import InputCache
from app.outbound.allow_list import AllowList
from app.outbound.connections import CheckedConnections
from app.outbound.fetching import Fetcher
from app.picture_threads import picture_threads
from app.rate_limits import RateLimits
from app.request_ids import RequestIds
from app.request_log import RequestLog, RouteNames
from app.request_metrics import MeasureRequests
from app.request_spans import RequestSpans
from app.routers import (
    administration,
    dead_letters,
    docs,
    explanations,
    health,
    kserve_v1,
    listing,
    models,
    open_inference,
    open_inference_calls,
    open_inference_repository,
    predictions,
    results,
)
from app.routers import metrics as metrics_page
from app.routers import problems as problem_pages
from app.stalled_bodies import StalledBodies
from app.state import AppState
from app.stopping import ClosingConnections, Stage, Stopping
from app.surplus_connections import SurplusConnections
from app.unexpected import UnexpectedErrors
from app.webhooks.configuration import WebhookConfiguration
from app.webhooks.dispatcher import Dispatcher
from camserve import __version__
from camserve.broker import (
    CommandSender,
    DeadLetters,
    Deliveries,
    JobQueue,
    LinkSecret,
    RateLimiter,
    RecentJobs,
    Registry,
    ResultCache,
    Totals,
    connect,
)
from camserve.errors import QueueUnavailable
from camserve.exposure import check_exposure
from camserve.key_file import KeyFile
from camserve.queueing import queue_options
from camserve.settings import Settings

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

REAP_S = 1.0
# in the order in which the documentation shows them
_ROUTERS = (
    *(explanations, listing, results),
    kserve_v1,  # before the models: `{model}` would be any name, also `shapes:explain`
    *(models, predictions, administration, dead_letters),
    *(open_inference, open_inference_calls, open_inference_repository),
    *(health, metrics_page, problem_pages, docs),
)
REFRESH_KEYS_S = 1.0
LOOP_LOOK_S = 0.25
# FastAPI's own would tell of queries, which may hold signatures, and of probes; and without an SDK
# it does not read the caller's trace: see app.request_spans
_NO_TELEMETRY: Final[TelemetryConfig] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application. Without `settings`, those of the environment.

    Raises ValueError if CAMSERVE_REDIS_URL is missing, a setting means nothing, the file of API
    keys cannot be read, or there is none and the address is a public one.
    """
    settings = settings or Settings.from_environment()
    check_exposure(settings)
    keys = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
    if settings.redis_url is None:
        raise ValueError(
            "CAMSERVE_REDIS_URL is not set: name a Redis or Valkey server, or start everything "
            "with a private one by `python -m camserve serve`"
        )
    fetched = AllowList.parse("CAMSERVE_FETCH_HOSTS", settings.fetch_hosts)
    webhooks = WebhookConfiguration.of(settings)
    metrics = ProcessMetrics()
    app = FastAPI(
        title="camserve",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        openapi_url=None,  # ours is cached; see app.routers.docs
        docs_url=None,  # FastAPI's pages load their scripts from other hosts
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
        lifespan=partial(
            _lifespan,
            settings=settings,
            redis_url=settings.redis_url,
            keys=keys,
            fetched=fetched,
            webhooks=webhooks,
            metrics=metrics,
        ),
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.stopping = Stopping()
    app.state.openapi_files = {}  # by the prefix of the proxy in front, made when first asked for
    problems.install(app)
    # each is around the ones before it
    app.add_middleware(StalledBodies, stall_s=settings.stall_s, stopping=app.state.stopping)
    app.add_middleware(RouteNames)
    app.add_middleware(RateLimits)
    app.add_middleware(Guard, keys=keys)
    app.add_middleware(SurplusConnections)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(HeadRequests)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestIds)
    app.add_middleware(RequestSpans)
    allow_origins(app, settings)
    app.add_middleware(ClosingConnections, stopping=app.state.stopping)
    app.add_middleware(MeasureRequests, metrics=metrics.requests)
    for module in _ROUTERS:
        app.include_router(module.router)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(
    app: FastAPI,
    *,
    settings: Settings,
    redis_url: str,
    keys: KeyFile | None,
    fetched: AllowList,
    webhooks: WebhookConfiguration,
    metrics: ProcessMetrics,
) -> AsyncIterator[dict[str, AppState]]:
    """Connect, subscribe, reap; all of it survives a Redis that is away."""
    redis = connect(redis_url)
    options = queue_options(settings)
    async with (
        JobQueue(redis, options) as queue,
        CheckedConnections(fetched, settings.fetch_connections) as to_inputs,
        CheckedConnections(webhooks.allowed, webhooks.at_once) as to_receivers,
    ):
        registry = Registry(redis, options)
        catalog = Catalog(registry, queue, settings)
        stopping: Stopping = app.state.stopping
        tasks = [
            asyncio.create_task(_reap(queue)),
            asyncio.create_task(_end_waits(stopping, queue)),
            asyncio.create_task(metrics.requests.watch_loop(LOOP_LOOK_S)),
        ]
        if keys is not None:
            tasks.append(asyncio.create_task(_refresh(keys)))
        secret = LinkSecret(redis) if keys is not None else None
        threads = picture_threads(settings.picture_threads)
        parts = AppState(
            settings=settings,
            queue=queue,
            result_cache=ResultCache(redis, options),
            recent=RecentJobs(redis),
            dead_letters=DeadLetters(redis, options),
            catalog=catalog,
            commands=CommandSender(redis, options),
            picture_threads=threads,
            input_cache=InputCache(settings.input_cache_mb * 1_000_000, metrics.requests),
            fetcher=Fetcher(to_inputs, settings),
            webhooks=webhooks,
            stopping=stopping,
            rate_limiter=RateLimiter(redis),
            exposition=Exposition(metrics, Totals(redis), registry, settings),
            link_secret=secret,
        )
        if webhooks.allowed:
            dispatcher = Dispatcher(parts, Deliveries(redis, options), to_receivers)
            tasks.append(asyncio.create_task(dispatcher.run()))
        try:
            yield {"parts": parts}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            threads.shutdown(wait=False, cancel_futures=True)
    await redis.aclose()


async def _reap(queue: JobQueue) -> None:
    while True:
        try:
            await queue.reap()
        except QueueUnavailable:
            pass  # requests say so; this goes on
        except Exception:
            logger.exception("the reaper failed and goes on")
        await asyncio.sleep(REAP_S)


async def _end_waits(stopping: Stopping, queue: JobQueue) -> None:
    await stopping.wait_for(Stage.LATE)
    queue.end_waits()


async def _refresh(keys: KeyFile) -> None:
    """A key that is removed opens nothing a moment later, and without a restart."""
    while True:
        await asyncio.sleep(REFRESH_KEYS_S)
        try:
            await asyncio.to_thread(keys.refresh)
        except Exception:
            logger.exception("the API keys were not read again, and will be tried")
