"""What the whole service tells of itself, read from Redis: the same from each front end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from app.readiness import state_of
from camserve.broker import Census
from camserve.contracts.cards import DeviceMemory, WorkerStatus
from camserve.contracts.readiness import WorkerReadinessState
from camserve.measures import (
    COUNTERS,
    HISTOGRAMS,
    MODEL,
    Counter,
    Fields,
    Histogram,
    counts_of,
    distributions_of,
)

__all__ = ["away", "service_metrics"]

_STATES: Final[tuple[WorkerReadinessState, ...]] = get_args(WorkerReadinessState)
_OF_WORKER: Final = ("worker", "host", "device")


def away() -> Iterator[Metric]:
    """While Redis is."""
    yield from _health(redis=False, ready=False)


def service_metrics(
    census: Census, workers: Sequence[WorkerStatus], proof_lasts_s: float
) -> Iterator[Metric]:
    """All of them."""
    states = [state_of(worker, proof_lasts_s) for worker in workers]
    yield from _health(redis=True, ready="ready" in states)
    yield from _queues(census)
    for counter in COUNTERS:
        yield _counter(counter, census)
    for histogram in HISTOGRAMS:
        yield _histogram(histogram, census)
    found = GaugeMetricFamily(
        "camserve_workers", "Live workers, by what `/readyz` says of them.", labels=["state"]
    )
    for state in _STATES:
        found.add_metric([state], states.count(state))
    yield found
    yield from _of_workers(workers)


def _health(*, redis: bool, ready: bool) -> Iterator[Metric]:
    yield GaugeMetricFamily("camserve_redis_up", "Whether Redis answers.", value=redis)
    yield GaugeMetricFamily(
        "camserve_ready", "Whether the service can explain now, as `/readyz` says.", value=ready
    )


def _queues(census: Census) -> Iterator[Metric]:
    labels = [MODEL, "priority"]
    depth = GaugeMetricFamily(
        "camserve_queue_depth",
        "Jobs that wait or run; `redelivered` are those whose worker vanished.",
        labels=labels,
    )
    waiting = GaugeMetricFamily(
        "camserve_queue_waiting", "Jobs that no worker has taken.", labels=labels
    )
    oldest = GaugeMetricFamily(
        "camserve_queue_oldest_waiting_seconds",
        "How long the job at the head of the line has waited.",
        labels=labels,
    )
    dead = GaugeMetricFamily(
        "camserve_dead_letters", "Jobs that were given up, and are kept.", labels=[MODEL]
    )
    cached = GaugeMetricFamily(
        "camserve_result_cache_results", "Results that may answer other requests.", labels=[MODEL]
    )
    cached_bytes = GaugeMetricFamily(
        "camserve_result_cache_bytes", "Memory of Redis that they take, about.", labels=[MODEL]
    )
    for model, of_model in census.models.items():
        dead.add_metric([model], of_model.dead_letters)
        cached.add_metric([model], of_model.cached_results)
        cached_bytes.add_metric([model], of_model.cached_bytes)
        for rank, jobs in of_model.ranks.items():
            depth.add_metric([model, rank], jobs.open)
            waiting.add_metric([model, rank], jobs.waiting)
            oldest.add_metric([model, rank], jobs.oldest_s)
    yield from (depth, waiting, oldest, dead, cached, cached_bytes)


def _places(measure: Counter, census: Census) -> Iterator[tuple[list[str], Fields]]:
    """The labels in front of a measure's own, and where it is kept."""
    if MODEL not in measure.labels:
        yield [], census.totals
        return
    for model, of_model in census.models.items():
        yield [model], of_model.totals


def _counter(counter: Counter, census: Census) -> Metric:
    family = CounterMetricFamily(f"camserve_{counter.name}", counter.help, labels=counter.labels)
    for first, fields in _places(counter, census):
        for labels, value in counts_of(counter, fields).items():
            family.add_metric([*first, *labels], value)
    return family


def _histogram(histogram: Histogram, census: Census) -> Metric:
    family = HistogramMetricFamily(
        f"camserve_{histogram.name}", histogram.help, labels=histogram.labels
    )
    for first, fields in _places(histogram, census):
        for labels, found in distributions_of(histogram, fields).items():
            buckets = [(_spelt(bound), count) for bound, count in found.buckets]
            family.add_metric([*first, *labels], buckets, found.sum)
    return family


def _spelt(bound: float) -> str:
    return "+Inf" if bound == math.inf else repr(bound)


def _of_workers(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    age = GaugeMetricFamily(
        "camserve_worker_proof_age_seconds",
        "How long ago the warm-up explanation of a worker last came out right.",
        labels=_OF_WORKER,
    )
    resident = GaugeMetricFamily(
        "camserve_model_resident", "1 where a worker holds a model.", labels=(*_OF_WORKER, MODEL)
    )
    limits = GaugeMetricFamily(
        "camserve_batch_limit_inputs",
        "Inputs at once, of models whose batches the memory of the device limits.",
        labels=(*_OF_WORKER, MODEL),
    )
    remembered = GaugeMetricFamily(
        "camserve_activation_cache_bytes",
        "Activations of inputs that a worker remembers, on its device.",
        labels=_OF_WORKER,
    )
    memory = {
        name: GaugeMetricFamily(
            f"camserve_device_memory_{name}_bytes",
            f"Memory of a worker's device. {field.description or 'All of it.'}",
            labels=_OF_WORKER,
        )
        for name, field in DeviceMemory.model_fields.items()
    }
    for worker in workers:
        place = [worker.worker, worker.host, worker.device]
        if worker.proof_age_s is not None:
            age.add_metric(place, worker.proof_age_s)
        remembered.add_metric(place, worker.activation_bytes)
        for model in worker.resident:
            resident.add_metric([*place, model], 1)
        for model, most in worker.limited_batches.items():
            limits.add_metric([*place, model], most)
        if worker.memory is not None:
            for name, family in memory.items():
                family.add_metric(place, getattr(worker.memory, name))
    yield from (age, resident, limits, remembered, *memory.values())
