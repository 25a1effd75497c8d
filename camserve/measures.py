"""What the whole service counts together: the names of its counters and histograms, and the fields
of Redis hashes that keep them.

Workers and scripts add to the fields, any front end reads them: so each tells the same, and none is
lost with a process. A field is `NAME|LABEL|LABEL`, and of a histogram `...|BOUND` for each bucket,
which counts what lies between its bound and the one below, and `...|sum`. The hash says which model
it is of, and so the field does not.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Final, TypeAlias

from camserve.contracts.states import TERMINAL

__all__ = [
    "ACTIVATION_LOOKUPS",
    "BATCH_INPUTS",
    "COMPUTE_SECONDS",
    "COUNTERS",
    "DEVICE_BUSY_SECONDS",
    "EVICTIONS",
    "HISTOGRAMS",
    "LATE_RESULTS",
    "LOADS_FAILED",
    "LOAD_SECONDS",
    "MODEL",
    "OUT_OF_MEMORY",
    "QUEUE_WAIT_SECONDS",
    "WORKER_RESTARTS",
    "Counter",
    "Distribution",
    "Fields",
    "Histogram",
    "Tally",
    "counts_of",
    "distributions_of",
]

Fields: TypeAlias = Mapping[str, float]
Labels: TypeAlias = tuple[str, ...]

MODEL: Final = "model"
"""The label that is not in the field."""
_SUM: Final = "sum"


@dataclass(frozen=True)
class Counter:
    """A number that only grows. known: values that each label may have, to be told before the first
    time; none for a label that may have any."""

    name: str
    help: str
    labels: Labels
    known: tuple[tuple[str, ...], ...] = ()

    def field(self, *labels: str) -> str:
        """Of the labels behind the model, in their order."""
        return "|".join((self.name, *labels))


@dataclass(frozen=True)
class Histogram(Counter):
    """How often there was which amount. bounds: of its buckets but for the last, rising."""

    bounds: tuple[float, ...] = field(kw_only=True)

    def bucket(self, amount: float) -> str:
        """The bound of the bucket that an amount lies in, as fields spell it."""
        position = bisect_left(self.bounds, amount)
        return _spelt(self.bounds[position] if position < len(self.bounds) else math.inf)


def _spelt(bound: float) -> str:
    return "+Inf" if bound == math.inf else f"{bound:.3f}"


def _doubling(first: float, count: int) -> tuple[float, ...]:
    return tuple(first * 2**n for n in range(count))


_PRIORITIES: Final = ("interactive", "bulk")

# counted by the scripts that make the transition, wherever that happens
_JOBS = Counter(
    "jobs",
    "Jobs that came to their end, by the state they ended in; loads of models are jobs, too.",
    (MODEL, "state"),
    (tuple(sorted(TERMINAL)),),
)
_ACCEPTED = Counter(
    "jobs_accepted", "Jobs that were put into the queue.", (MODEL, "priority"), (_PRIORITIES,)
)
_ATTEMPTS = Counter("job_attempts", "How often a worker began a job.", (MODEL,))
_REDELIVERIES = Counter(
    "job_redeliveries",
    "Jobs that had begun and were put back, because their worker died or fell silent.",
    (MODEL,),
)
_RESULT_LOOKUPS = Counter(
    "result_cache_lookups",
    "Requests by what the cache of results had for them; `bypass`: they asked to be computed. A "
    "`hit` was never in the queue, and counts in no other counter of jobs.",
    (MODEL, "result"),
    (("hit", "miss", "bypass"),),
)
_RESULT_EVICTIONS = Counter(
    "result_cache_evictions",
    "Results that had to make room in the cache for newer ones.",
    (MODEL,),
)
QUEUE_WAIT_SECONDS: Final = Histogram(
    "queue_wait_seconds",
    "From the acceptance of a job to the beginning of its first attempt.",
    (MODEL, "priority"),
    bounds=_doubling(0.001, 18),
)

# measured by workers
COMPUTE_SECONDS: Final = Histogram(
    "compute_seconds",
    "Time that jobs which were computed together took on the device, by what was asked for.",
    (MODEL, "kind"),
    bounds=_doubling(0.001, 18),
)
BATCH_INPUTS: Final = Histogram(
    "batch_inputs",
    "Inputs of jobs that were computed together.",
    (MODEL, "kind"),
    bounds=_doubling(1, 9),
)
OUT_OF_MEMORY: Final = Counter(
    "out_of_memory",
    "How often the memory of a device did not hold a batch, which was then computed in parts.",
    (MODEL,),
)
ACTIVATION_LOOKUPS: Final = Counter(
    "activation_cache_lookups",
    "Inputs that a worker looked for among the activations it has; a hit runs the head alone.",
    (MODEL, "result"),
    (("hit", "miss"),),
)
LATE_RESULTS: Final = Counter(
    "late_results",
    "Results that came when the job was closed already, or another worker had taken it over.",
    (MODEL,),
)
LOAD_SECONDS: Final = Histogram(
    "model_load_seconds",
    "Time of a load that succeeded, with the download, the choice of layers and the warm-up.",
    (MODEL,),
    bounds=_doubling(0.125, 14),
)
LOADS_FAILED: Final = Counter("model_load_failures", "Loads of a model that failed.", (MODEL,))
EVICTIONS: Final = Counter(
    "model_evictions", "How often a model had to make room for another one.", (MODEL,)
)
DEVICE_BUSY_SECONDS: Final = Counter(
    "device_busy_seconds", "Time that a device spent computing.", ("host", "device")
)
WORKER_RESTARTS: Final = Counter(
    "worker_restarts",
    "Workers that ended without being told to, and how: a signal, or `exit code N` (70: a batch "
    "outlasted its limit; 71: the device failed its warm-up explanation).",
    ("host", "device", "how"),
)

COUNTERS: Final = (
    *(_ACCEPTED, _JOBS, _ATTEMPTS, _REDELIVERIES),
    *(_RESULT_LOOKUPS, _RESULT_EVICTIONS),
    *(ACTIVATION_LOOKUPS, OUT_OF_MEMORY, LATE_RESULTS, LOADS_FAILED, EVICTIONS),
    *(DEVICE_BUSY_SECONDS, WORKER_RESTARTS),
)
HISTOGRAMS: Final = (QUEUE_WAIT_SECONDS, COMPUTE_SECONDS, BATCH_INPUTS, LOAD_SECONDS)


class Tally:
    """What one process has measured and not told yet, by model; None for what is of no model."""

    def __init__(self) -> None:
        self._fields: dict[str | None, dict[str, float]] = {}

    def count(self, counter: Counter, *labels: str, model: str | None, by: float = 1) -> None:
        """labels: those behind the model, in their order."""
        self._add(model, counter.field(*labels), by)

    def observe(self, histogram: Histogram, amount: float, *labels: str, model: str) -> None:
        self._add(model, histogram.field(*labels, histogram.bucket(amount)), 1)
        self._add(model, histogram.field(*labels, _SUM), amount)

    def take(self) -> dict[str | None, dict[str, float]]:
        """All of it, which is then told by whoever took it."""
        fields, self._fields = self._fields, {}
        return fields

    def _add(self, model: str | None, name: str, by: float) -> None:
        of_model = self._fields.setdefault(model, {})
        of_model[name] = of_model.get(name, 0) + by


def counts_of(counter: Counter, fields: Fields) -> dict[Labels, float]:
    """What a counter stands at, by its labels behind the model; 0 for known ones without field."""
    return {**dict.fromkeys(_known(counter), 0.0), **dict(_fields_of(counter, fields))}


@dataclass(frozen=True)
class Distribution:
    """buckets: how many were at most as much as each bound, the last one being infinite."""

    buckets: tuple[tuple[float, float], ...]
    sum: float


def distributions_of(histogram: Histogram, fields: Fields) -> dict[Labels, Distribution]:
    """What a histogram holds, by its labels behind the model; nothing before the first time.

    A bucket of another version, whose bound is none of ours, counts in the next larger one.
    """
    bounds = (*histogram.bounds, math.inf)
    counts: dict[Labels, list[float]] = {}
    sums: dict[Labels, float] = {}
    for (*labels, bound), value in _fields_of(histogram, fields):
        key = tuple(labels)
        if bound == _SUM:
            sums[key] = value
            continue
        of_labels = counts.setdefault(key, [0.0] * len(bounds))
        of_labels[bisect_left(bounds, float(bound) * (1 - 1e-9))] += value
    return {
        labels: Distribution(
            tuple((bound, sum(found[: n + 1])) for n, bound in enumerate(bounds)),
            sums.get(labels, 0.0),
        )
        for labels, found in counts.items()
    }


def _known(counter: Counter) -> Iterable[Labels]:
    if len(counter.known) < len([label for label in counter.labels if label != MODEL]):
        return ()
    return product(*counter.known)


def _fields_of(counter: Counter, fields: Fields) -> Iterable[tuple[Labels, float]]:
    for name, value in fields.items():
        first, *labels = name.split("|")
        if first == counter.name:
            yield tuple(labels), value
