"""A finished job as the front end holds it: the job, its rows, and the signed maps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.state import AppState
from camserve.broker import JobRecord, State
from camserve.contracts.failures import FailureMessage
from camserve.contracts.jobs import Job, JobResult, map_name
from camserve.contracts.wire import TensorBytes, metadata_of, tensors_of
from camserve.errors import (
    CamserveError,
    Canceled,
    DeadLettered,
    DeadlineExceeded,
    ErrorCode,
    ExplanationNotFound,
    Failure,
    NotReady,
    UnknownName,
)
from camserve.tracing import staged

__all__ = [
    "Finished",
    "array_of",
    "committed",
    "failure_of",
    "fetch",
    "fetch_succeeded",
    "finished",
]

SMALL_RESULT: Final = 8192  # bytes: a few rows of 7x7 maps


@dataclass(frozen=True)
class Finished:
    """A succeeded job. `maps[r]` are the signed maps (*S) float32 of `result.rows[r]`, one for each
    feature layer, axes in the model's order."""

    record: JobRecord
    job: Job
    result: JobResult
    maps: tuple[tuple[NDArray[np.float32], ...], ...]
    is_small: bool
    """Whether it is read, and told about, in less time than the way to a thread and back takes."""

    def check_row(self, number: int) -> None:
        """Raises UnknownName unless there is a result of that number."""
        last = len(self.maps) - 1
        if number > last:
            known = "one result, number 0" if last == 0 else f"results 0 to {last}"
            raise UnknownName(f"the explanation has {known}: not {number}", maximum=last)


async def fetch(state: AppState, job_id: str) -> JobRecord:
    """The record of an explanation. Raises ExplanationNotFound, QueueUnavailable."""
    record = await state.queue.get(job_id)
    if record is None or _job(record).kind != "explain":
        raise ExplanationNotFound(job_id)
    return record


async def committed(state: AppState, record: JobRecord) -> bytes | None:
    """What the worker made of a succeeded job; a small one came with the record. None if it has
    expired. Raises QueueUnavailable."""
    return await state.queue.result(record.id) if record.result is None else record.result


@staged("fetch result")
async def finished(state: AppState, record: JobRecord) -> Finished:
    """The results of a succeeded explanation. Raises ExplanationNotFound if they have expired."""
    buffer = await committed(state, record)
    if buffer is None:
        raise ExplanationNotFound(record.id)
    if len(buffer) <= SMALL_RESULT:
        return _read(record, buffer)
    return await asyncio.to_thread(_read, record, buffer)


def _read(record: JobRecord, buffer: bytes) -> Finished:
    """Maps are views of the buffer: a picture of one among hundreds copies none of the others."""
    result = JobResult.model_validate_json(metadata_of(buffer))
    tensors = tensors_of(buffer)
    layers = range(len(result.feature_layers))
    maps = tuple(
        tuple(array_of(tensors[map_name(number, layer)]) for layer in layers)
        for number in range(len(result.rows))
    )
    return Finished(record, _job(record), result, maps, len(buffer) <= SMALL_RESULT)


def array_of(tensor: TensorBytes) -> NDArray[np.float32]:
    """A view of a float32 tensor. Raises ValueError for another."""
    if tensor.dtype != "F32":
        raise ValueError(f"results are float32, not {tensor.dtype}")
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)


async def fetch_succeeded(state: AppState, job_id: str) -> JobRecord:
    """Like `fetch`; raises NotReady, or what the explanation failed with, if it has no results."""
    record = await fetch(state, job_id)
    failure = failure_of(record)
    if failure is not None:
        raise failure
    if not record.is_terminal:
        raise NotReady(
            f"explanation {job_id} is {record.state}: ask again when it has succeeded",
            state=str(record.state),
            retry_after_s=1,
        )
    return record


def failure_of(record: JobRecord) -> CamserveError | None:
    """Why a closed job has no result; None if it has one, or is still open."""
    match record.state:
        case State.CANCELED:
            return Canceled()
        case State.EXPIRED:
            return DeadlineExceeded()
        case State.DEAD:
            return DeadLettered(
                f"given up after {record.attempts} attempts that took the worker down: the input "
                "or the model crashes it",
                attempts=record.attempts,
            )
        case State.FAILED if record.failure:
            return FailureMessage.model_validate_json(record.failure).to_error()
        case State.FAILED:
            return Failure(ErrorCode.INTERNAL, "the worker gave no reason")
        case _:
            return None


def _job(record: JobRecord) -> Job:
    return Job.model_validate_json(record.document)
