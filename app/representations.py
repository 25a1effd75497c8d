"""The JSON of an explanation, from its record and, once it has succeeded, its results."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import numpy as np

from app.presentation import finish_map, raw_map
from app.requested import array_options, room_inline
from app.results import Finished, failure_of
from app.signatures import PARAMETER, Signer
from camserve.broker import JobRecord, State
from camserve.contracts.deliveries import DeliveryOutcome, WebhookDelivery
from camserve.contracts.explanations import (
    Computation,
    Explanation,
    ExplanationSummary,
    Link,
    MapSummary,
    Progress,
    ResultSummary,
    TargetSummary,
    Timings,
)
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job, JobResult, PredictionResult, ScalarTarget
from camserve.contracts.layers import as_layers
from camserve.contracts.options import OutputOptions, PictureStyle
from camserve.maps.encode import npy_parts
from camserve.settings import Settings

__all__ = [
    "computation",
    "explanation",
    "explanation_href",
    "map_href",
    "overlay_href",
    "summary",
    "timings",
]


def explanation_href(job_id: str) -> str:
    return f"/v1/explanations/{job_id}"


def map_href(job_id: str, number: int, output: OutputOptions, signer: Signer | None) -> str:
    """Where the map is, of the size that the request asked for."""
    query = _query(output, {"size", "dtype"}, job_id, signer)
    return f"{explanation_href(job_id)}/results/{number}/map{query}"


def overlay_href(job_id: str, number: int, output: OutputOptions, signer: Signer | None) -> str:
    """Where the picture is, in the style and size that the request asked for."""
    asked = set(PictureStyle.model_fields)
    if output.size != "feature":  # of which there is an array, and no picture
        asked.add("size")
    query = _query(output, asked, job_id, signer)
    return f"{explanation_href(job_id)}/results/{number}/overlay{query}"


def events_href(job_id: str, signer: Signer | None) -> str:
    """Where the changes of an explanation are told."""
    query = "" if signer is None else f"?{urlencode({PARAMETER: signer.signature(job_id)})}"
    return f"{explanation_href(job_id)}/events{query}"


def _query(output: OutputOptions, members: set[str], job_id: str, signer: Signer | None) -> str:
    """Those members of `output` that differ from the defaults, as a query string; signed, where
    that is needed."""
    asked = output.model_dump(mode="json", include=members, exclude_defaults=True)
    texts = {name: str(value).lower() for name, value in asked.items()}
    if signer is not None:
        texts[PARAMETER] = signer.signature(job_id)
    return f"?{urlencode(texts)}" if texts else ""


def explanation(
    record: JobRecord,
    finished: Finished | None,
    settings: Settings,
    signer: Signer | None,
    *,
    position: int | None = None,
    inline: bool = True,
) -> Explanation:
    """An explanation in whatever state; `finished` where there is a result.

    signer: of the links to results, where they need a signature. position: in the queue. inline:
    put the maps inside that were asked for there, and what became of the webhook, which goes on
    after the end: not in what is told of every change.
    """
    job = finished.job if finished else Job.model_validate_json(record.document)
    results = range(len(finished.maps)) if finished else ()
    return Explanation(
        **_lifetime(record, job, finished),
        queue_position=position,
        events=Link(href=events_href(record.id, signer)),
        progress=_progress(record),
        results=tuple(
            _result(finished, n, settings if inline else None, signer) for n in results if finished
        ),
        computation=computation(
            record, finished.result, forward_passes=finished.result.forward_passes
        )
        if finished
        else None,
        webhook=_webhook(record) if inline else None,
    )


def summary(record: JobRecord, signer: Signer | None) -> ExplanationSummary:
    """An explanation as a list shows it."""
    job = Job.model_validate_json(record.document)
    overlay = overlay_href(record.id, 0, job.output, signer)
    return ExplanationSummary(
        **_lifetime(record, job, None),
        priority=record.priority.value,
        inputs=len(job.inputs),
        input_names=tuple(one.name for one in job.inputs),
        maps=len(job.inputs) * sum(target.count for target in job.targets),
        overlay=Link(href=overlay) if record.state is State.SUCCEEDED else None,
    )


def _lifetime(record: JobRecord, job: Job, finished: Finished | None) -> dict[str, Any]:
    """What is known in every state, as members of a `Lifetime`."""
    failure = failure_of(record)
    return {
        "id": record.id,
        "state": record.state,
        "model": record.model,
        "model_version": finished.result.model_version if finished else job.model_version,
        "created_at": _time(record.created_ms),
        "started_at": _time(record.started_ms) if record.started_ms else None,
        "completed_at": _time(record.completed_ms) if record.completed_ms else None,
        "deadline_at": _time(record.deadline_ms),
        "attempts": record.attempts,
        "cancel_requested": record.cancel_requested,
        "timings_ms": timings(record, finished.result.compute_ms if finished else None),
        "error": FailureMessage.of(failure) if failure else None,
        "replay_of": job.replay_of,
        "href": explanation_href(record.id),
    }


def _webhook(record: JobRecord) -> WebhookDelivery | None:
    delivery = record.delivery
    if delivery is None:
        return None
    last = DeliveryOutcome.model_validate_json(delivery.outcome or b"{}")
    return WebhookDelivery(
        status=last.status,
        error=last.error,
        state=delivery.state,
        attempts=delivery.attempts,
        next_attempt_at=_time(delivery.due_ms) if delivery.due_ms else None,
    )


def _progress(record: JobRecord) -> Progress | None:
    if record.state is not State.RUNNING or record.progress is None:
        return None
    done, total = record.progress
    return Progress(done=done, total=total)


def _result(
    finished: Finished,
    number: int,
    settings: Settings | None,
    signer: Signer | None,
) -> ResultSummary:
    """settings: their limits fit the maps that are put inside; None puts none."""
    job, row = finished.job, finished.result.rows[number]
    target = job.targets[row.target]
    signed = raw_map(finished, number)
    finite = signed[np.isfinite(signed)]
    job_id = finished.record.id
    return ResultSummary(
        input=row.input,
        input_name=job.inputs[row.input].name,
        target=TargetSummary(
            class_index=row.class_index,
            class_label=row.class_label,
            reduction=target.reduction if isinstance(target, ScalarTarget) else None,
            expression=target.expression if isinstance(target, ScalarTarget) else None,
            score=row.score,
        ),
        feature_layer=as_layers(finished.result.feature_layers),
        reduction_layer=finished.result.reduction_layer,
        method=job.method,
        convention=job.convention,
        map=MapSummary(
            shape=signed.shape,
            min=float(finite.min()) if finite.size else None,
            max=float(finite.max()) if finite.size else None,
            href=map_href(job_id, number, job.output, signer),
            **(_inline(finished, number, settings) if settings else {}),
        ),
        overlay=Link(href=overlay_href(job_id, number, job.output, signer)),
        diagnostics=row.diagnostics,
        evaluation=row.evaluation,
    )


def computation(
    record: JobRecord, result: JobResult | PredictionResult, *, forward_passes: int
) -> Computation:
    """What it took. forward_passes: where the result of an earlier request answered this one, that
    of the computation, which is not done again."""
    is_hit = record.lookup == "hit"
    return Computation(
        device=result.device,
        precision=result.precision,
        batch_size=result.batch_size,
        forward_passes=0 if is_hit else forward_passes,
        cache="result" if is_hit else None,
    )


def _inline(finished: Finished, number: int, settings: Settings) -> dict[str, object]:
    """The finished map inside the answer, for those who asked for it."""
    job = finished.job
    if job.output.map == "link":
        return {}
    room = room_inline(job, settings, len(finished.maps))
    values = finish_map(finished, number, array_options(job), room).values
    if job.output.map == "list":
        return {"data": values}
    return {"npy_base64": base64.b64encode(b"".join(npy_parts([values]))).decode()}


def timings(record: JobRecord, compute_ms: float | None) -> Timings:
    """compute_ms: of the result, which may be that of an earlier request."""
    started, completed = record.started_ms, record.completed_ms
    return Timings(
        queue=started - record.created_ms if started else None,
        compute=None if record.lookup == "hit" else compute_ms,
        total=completed - record.created_ms if completed else None,
    )


def _time(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)
