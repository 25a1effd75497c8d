"""Dead letters as the operator sees them, and their replays."""

from __future__ import annotations

from datetime import UTC, datetime

from opentelemetry.trace import SpanKind

from app.handing_in import document_of, kept_as
from app.representations import explanation_href
from app.request_log import note_job
from app.state import AppState
from camserve.broker import DeadLetter, LostAttempt, new_job_id
from camserve.contracts import dead_letters as messages
from camserve.contracts.jobs import Job
from camserve.tracing import stage

__all__ = ["letter_href", "letter_message", "replayed"]


def letter_href(job_id: str) -> str:
    return f"/v1/dead-letters/{job_id}"


def letter_message(letter: DeadLetter) -> messages.DeadLetter:
    job = Job.model_validate_json(letter.document)
    until_ms = letter.replayable_until_ms
    return messages.DeadLetter(
        id=letter.id,
        kind=job.kind,
        model=letter.model,
        model_version=job.model_version,
        reason=_reason(letter.attempts),
        input_digest=job.input_digest,
        request_id=job.request_id,
        replay_of=job.replay_of,
        priority=letter.priority.value,
        execution=letter.execution,
        attempts=tuple(_attempt(one) for one in letter.attempts),
        created_at=_time(letter.created_ms),
        died_at=_time(letter.died_ms),
        replayable_until=None if until_ms is None else _time(until_ms),
        replay=_replay(letter, job),
        href=letter_href(letter.id),
    )


async def replayed(state: AppState, job_id: str, request_id: str | None) -> DeadLetter:
    """The letter, once its job is in the queue again, as a new one, for the model as it is now.

    Raises DeadLetterNotFound, NotReplayable; ModelNotFound, NoWorker; QueueFull, QueueUnavailable.
    """
    letter = await state.dead_letters.get(job_id)
    card = await state.catalog.card(letter.model)
    await state.catalog.check_execution(card.name, letter.execution)
    dead = Job.model_validate_json(letter.document)
    job = dead.model_copy(
        update={
            "model_version": card.version,
            "request_id": request_id,
            "replay_of": job_id,
            "caching": "refresh" if dead.may_fill_caches else "bypass",
        }
    )
    digest, lookup = kept_as(state, job)
    replay_id = new_job_id(letter.model)
    note_job(replay_id)
    with stage("enqueue", {"messaging.message.id": replay_id}, kind=SpanKind.PRODUCER):
        await state.dead_letters.replay(
            letter,
            job_id=replay_id,
            document=document_of(job),
            listed=job.kind == "explain",
            delivery_life_ms=round(state.webhooks.schedule.life_s * 1000) if job.webhook else None,
            measured=job.kind != "load",
            weight=job.weight,
            digest=digest,
            lookup=lookup,
        )
    return await state.dead_letters.get(job_id)


def _replay(letter: DeadLetter, job: Job) -> messages.Replay | None:
    if letter.replay_id is None:
        return None
    href = explanation_href(letter.replay_id) if job.kind == "explain" else None
    return messages.Replay(id=letter.replay_id, state=letter.replay_state, explanation=href)


def _reason(attempts: tuple[LostAttempt, ...]) -> str:
    kinds = {str(one.ended_by) for one in attempts}
    said = {"death": "died", "lease": "fell silent"}
    what = said.get(kinds.pop(), "vanished") if len(kinds) == 1 else "died or fell silent"
    if len(attempts) == 1:
        return f"its worker {what} in the one attempt it was granted"
    return f"its worker {what} in each of {len(attempts)} attempts"


def _attempt(attempt: LostAttempt) -> messages.LostAttempt:
    return messages.LostAttempt(
        worker=attempt.worker,
        started_at=_time(attempt.started_ms),
        ended_at=None if attempt.ended_ms is None else _time(attempt.ended_ms),
        ended_by=attempt.ended_by,
    )


def _time(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
