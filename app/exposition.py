"""All metrics of a front end as one page, in the format that the scraper reads."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.request_metrics import RequestMetrics
from app.service_metrics import away, service_metrics
from app.several_processes import DIRECTORY, SeveralProcesses
from camserve import __version__
from camserve.broker import Registry, Totals
from camserve.errors import QueueUnavailable
from camserve.live_workers import live_workers
from camserve.settings import Settings

__all__ = ["Exposition", "ProcessMetrics", "Scrape"]

PATIENCE_S: Final = 3.0
"""For Redis: Prometheus gives up a scrape after ten seconds, and would see nothing at all."""


class ProcessMetrics:
    """What this process measures. Made before the application: the middleware counts into it.

    Where DIRECTORY is set, as it is where several processes answer at one address, they measure
    together, in files there.
    """

    def __init__(self) -> None:
        own = CollectorRegistry()
        folder = os.environ.get(DIRECTORY)
        # before the first metric is made, which opens the files of this process
        measured: Collector = SeveralProcesses(folder) if folder else own
        self.requests = RequestMetrics(own)
        self._collectors = (measured, ProcessCollector(registry=None))

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            yield from collector.collect()
        built = GaugeMetricFamily("camserve_build_info", "1, with the version.", labels=["version"])
        built.add_metric([__version__], 1)
        yield built


class Scrape:
    """One page: what the process measured, and then the service."""

    def __init__(self, process: ProcessMetrics, service: Sequence[Metric]) -> None:
        self._process = process
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from _without_created(self._process.collect())
        yield from self._service


def _without_created(metrics: Iterable[Metric]) -> Iterator[Metric]:
    """When each series began is of no use to most, and as many series again."""
    for metric in metrics:
        metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
        yield metric


class Exposition:
    """One per front end."""

    def __init__(
        self, process: ProcessMetrics, totals: Totals, registry: Registry, settings: Settings
    ) -> None:
        self._process = process
        self._totals = totals
        self._registry = registry
        self._proof_lasts_s = settings.proof_lasts_s

    async def page(self, accept: str | None, *, compressed: bool) -> tuple[bytes, str]:
        """The page and its media type: OpenMetrics if `accept` asks for it."""
        service = await self._service()
        encode, media_type = choose_encoder(accept or "")

        def write() -> bytes:
            page: bytes = encode(Scrape(self._process, service))
            return gzip.compress(page, 1) if compressed else page

        return await asyncio.to_thread(write), media_type

    async def _service(self) -> Sequence[Metric]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                census = await self._totals.census()
                workers = await live_workers(self._registry)
        except (QueueUnavailable, TimeoutError):
            return tuple(away())
        return tuple(service_metrics(census, workers, self._proof_lasts_s))
