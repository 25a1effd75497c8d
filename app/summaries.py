"""What is said of a model: whether it can be used now, where it is resident, how fast it is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from app.state import AppState
from camserve.contracts.cards import ResolvedCard, ServiceTimes, WorkerStatus
from camserve.contracts.explanations import ModelSummary, Residence, ServedCard
from camserve.contracts.failures import FailureMessage
from camserve.errors import NoWorker

__all__ = ["model_href", "served_card", "summary"]


def model_href(name: str) -> str:
    return f"/v1/models/{name}"


def served_card(card: ResolvedCard, workers: Sequence[WorkerStatus]) -> ServedCard:
    """The card as it is answered: with the reason if the model cannot be used now."""
    problem = _problem(card, _serving(card, workers))
    fields = {name: getattr(card, name) for name in ResolvedCard.model_fields}
    return ServedCard(**fields | {"problem": problem, "ready": problem is None})


async def summary(
    state: AppState, card: ResolvedCard, workers: Sequence[WorkerStatus]
) -> ModelSummary:
    """Raises QueueUnavailable."""
    serving = _serving(card, workers)
    problem = _problem(card, serving)
    return ModelSummary(
        name=card.name,
        title=card.title,
        description=card.description,
        task=card.task,
        state=card.state,
        ready=problem is None,
        problem=problem,
        version=card.version,
        failed_update=card.failed_update,
        classes=card.classes,
        input=card.input,
        feature_layer=card.feature_layer,
        workers=sum(not one.restarting for one in serving),
        resident_on=tuple(
            Residence(worker=one.worker, host=one.host, device=one.device)
            for one in serving
            if card.name in one.resident
        ),
        queue_depth=await state.queue.depth(card.name),
        p50_ms=_medians([one.p50_ms[card.name] for one in serving if card.name in one.p50_ms]),
        href=model_href(card.name),
    )


def _serving(card: ResolvedCard, workers: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    return [worker for worker in workers if card.name in worker.models]


def _problem(card: ResolvedCard, serving: Sequence[WorkerStatus]) -> FailureMessage | None:
    """Why a request for the model would be refused now."""
    if card.problem is not None or serving:
        return card.problem
    return FailureMessage.of(NoWorker(card.name))


def _medians(of_workers: Sequence[ServiceTimes]) -> ServiceTimes:
    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    return ServiceTimes(
        explain=median([one.explain for one in of_workers]),
        predict=median([one.predict for one in of_workers]),
    )
