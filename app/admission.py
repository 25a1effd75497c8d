"""What every job begins with: its deadline, a model that can be used now, and prepared inputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from app.counts import check_inputs
from app.documents import Asked, RemoteUpload, Upload
from app.input_cache import QUICKLY_DIGESTED, key_of
from app.inputs import PreparedInput, prepare
from app.outbound.fetching import Room
from app.remote_uploads import check_urls, fetched, placed
from app.state import AppState
from app.uploads import Arrival, check_format_is_used
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.input_specs import InputSpec
from camserve.contracts.jobs import Caching
from camserve.contracts.requests import InputsRequest
from camserve.errors import DeadlineExceeded, InvalidRequest, NoWorker
from camserve.tracing import staged

__all__ = ["Admission", "admit", "may_recall", "payload_made", "prepared"]

T = TypeVar("T")


@dataclass(frozen=True)
class Admission:
    """deadline_s: by this process's event loop. lack: why nothing can be computed now, of a request
    that the result of an earlier one may answer all the same."""

    card: ResolvedCard
    spec: InputSpec
    deadline_s: float
    lack: NoWorker | None = None


@staged("admit")
async def admit(
    state: AppState, arrival: Arrival[Asked], model: str, caching: Caching
) -> Admission:
    """Check a request's deadline and device against the service, and have its model ready. Where no
    live worker is, it may be known from before, and so may the answer.

    Raises InvalidRequest; ModelNotFound, NoWorker, ModelLoading, ModelUnavailable (and what else a
    load may fail with), QueueUnavailable.
    """
    request = arrival.asked
    time_to_deadline_s = _time_to_deadline_s(request, state)
    lack: NoWorker | None = None
    try:
        card = await state.catalog.ready_card(model, time_to_deadline_s)
        await state.catalog.check_execution(card.name, request.execution)
    except NoWorker as error:
        known = await state.catalog.find(model) if may_recall(state, caching) else None
        if known is None or known.state != "ready":
            raise
        card, lack = known, error
    if card.input is None:
        raise InvalidRequest(f"model {card.name!r} takes no pictures or tensors")
    return Admission(card, card.input, arrival.arrived_s + time_to_deadline_s, lack)


def may_recall(state: AppState, caching: Caching) -> bool:
    """Whether the result of an earlier request may answer one that says so much of caches."""
    return state.result_cache.is_on and caching == "use"


@staged("prepare")
async def prepared(
    state: AppState,
    arrival: Arrival[Asked],
    admission: Admission,
    caching: Caching,
    *,
    drawn: bool = True,
) -> list[PreparedInput]:
    """All inputs; the first that cannot be prepared ends it, with its number in the error.

    What is named by a URL is fetched; all of them together hold as much as a body may. caching:
    whether what a file became before may be used. drawn: whether overlays may be asked for.
    Raises DeadlineExceeded, UrlNotAllowed, UrlUnreachable, and what `prepare` does.
    """
    check_urls(state.fetcher, arrival.uploads)
    room, labels = Room(state.settings.max_body_bytes), arrival.asked.format
    arrays: list[bool] = []

    async def one(index: int, upload: Upload | RemoteUpload) -> Sequence[PreparedInput]:
        with placed(index, upload):
            here = await fetched(state.fetcher, upload, room)
            arrays.append(here.is_array)
            return await _remembered(state, here, admission.spec, labels, caching, drawn=drawn)

    try:
        async with until(admission.deadline_s), asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(one(i, upload)) for i, upload in enumerate(arrival.uploads)]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    check_format_is_used(labels, arrays)
    inputs = [one for task in made for one in task.result()]
    check_inputs(len(inputs), state.settings)
    return inputs


async def _remembered(
    state: AppState,
    upload: Upload,
    spec: InputSpec,
    labels: str | None,
    caching: Caching,
    *,
    drawn: bool,
) -> Sequence[PreparedInput]:
    """As `prepare` makes it, or made it before."""
    cache, file = state.input_cache, upload.data
    make = partial(prepare, upload, spec, state.settings, labels, drawn=drawn)
    if not cache.is_on or caching == "bypass" or not isinstance(file, bytes):
        return await state.on_pictures(make)
    find = partial(key_of, file, upload, spec, labels, drawn=drawn)
    key = find() if len(file) <= QUICKLY_DIGESTED else await state.on_pictures(find)
    if caching == "use" and (known := cache.get(key)) is not None:
        return known
    found = await state.on_pictures(make)
    cache.keep(key, found)
    return found


async def payload_made(
    state: AppState,
    inputs: Sequence[PreparedInput],
    make: Callable[[], T],
    deadline_s: float,
    *,
    plain: bool = True,
) -> T:
    """What `make` makes of all inputs: in a thread, unless that is `plain` work on few bytes.
    Raises DeadlineExceeded, and what it does."""
    if plain and sum(one.tensor.nbytes for one in inputs) <= QUICKLY_DIGESTED:
        return make()
    async with until(deadline_s):
        return await state.on_pictures(make)


@asynccontextmanager
async def until(deadline_s: float) -> AsyncIterator[None]:
    """Raises DeadlineExceeded at the deadline, whatever is still being prepared, or in line."""
    try:
        async with asyncio.timeout_at(deadline_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded from error


def _time_to_deadline_s(request: InputsRequest, state: AppState) -> float:
    longest_s = state.settings.max_deadline_s
    if request.deadline_ms is None:
        # what may compute for long is not to expire for want of a deadline that was long enough
        extra_s = state.settings.costly_time_limit_s if request.is_costly else 0
        return max(state.settings.deadline_s, min(state.settings.deadline_s + extra_s, longest_s))
    if request.deadline_ms > longest_s * 1000:
        raise InvalidRequest(
            f"deadline_ms: at most {longest_s * 1000:.0f}",
            field="deadline_ms",
            limit=round(longest_s * 1000),
        )
    return request.deadline_ms / 1000
