"""The client for asyncio, and for trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from anyio.to_thread import run_sync

from camserve.client import calls, operations
from camserve.client.arguments import (
    ExplainArguments,
    MapArguments,
    PictureArguments,
    PredictArguments,
)
from camserve.client.calls import Call, Form
from camserve.client.endpoint import Endpoint, OnWait
from camserve.client.following import Following
from camserve.client.inputs import Input, mask_file, read_inputs
from camserve.client.pictures import Picture
from camserve.client.transports import AsyncTransport
from camserve.client.views import ExplanationView, ResultView
from camserve.contracts import explanations as messages
from camserve.contracts.dead_letters import DeadLetter, DeadLetterList, Purged
from camserve.contracts.predictions import Prediction
from camserve.contracts.states import State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["AsyncClient", "AsyncExplanation", "AsyncResult"]

T = TypeVar("T")


class AsyncClient:
    """`Client` for an event loop: an asynchronous context manager, whose tasks may share it."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        reconnect_s: float = 10.0,
        on_wait: OnWait | None = None,
    ) -> None:
        endpoint = Endpoint.of(base_url, api_key, timeout_s, reconnect_s)
        self._transport = AsyncTransport(endpoint, on_wait)

    @property
    def base_url(self) -> str:
        """Where the service is."""
        return str(self._transport.endpoint.base_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def explain(
        self,
        inputs: Input | Sequence[Input],
        *,
        mask: Input | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncExplanation:
        """As `Client.explain`; files are read in a thread."""
        call = await run_sync(_explain, inputs, mask, arguments, idempotency_key)
        patience = self._transport.endpoint.patience_of(timeout_s)
        return AsyncExplanation(
            await self._transport.run(operations.explained(call, patience)), self._transport
        )

    async def submit(
        self,
        inputs: Input | Sequence[Input],
        *,
        mask: Input | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        **arguments: Unpack[ExplainArguments],
    ) -> AsyncExplanation:
        """The same without waiting: the explanation as it was accepted. Raises as `explain`."""
        call = await run_sync(_explain, inputs, mask, arguments, idempotency_key)
        patience = self._transport.endpoint.patience_of(timeout_s)
        return AsyncExplanation(
            await self._transport.run(operations.submitted(call, patience)), self._transport
        )

    async def explanation(self, explanation_id: str) -> AsyncExplanation:
        """One that was accepted earlier, in its present state. Raises NotFound."""
        call = calls.get("explanations", explanation_id)
        return AsyncExplanation(
            await self._transport.read(messages.Explanation, call), self._transport
        )

    async def explanations(
        self, *, model: str | None = None, state: State | Sequence[State] | None = None
    ) -> AsyncIterator[messages.ExplanationSummary]:
        """As `Client.explanations`."""
        cursor = None
        while True:
            call = calls.get("explanations", model=model, state=state, cursor=cursor)
            page = await self._transport.read(messages.ExplanationList, call)
            for one in page.explanations:
                yield one
            if (cursor := page.next_cursor) is None:
                return

    async def predict(
        self,
        inputs: Input | Sequence[Input],
        *,
        timeout_s: float | None = None,
        **arguments: Unpack[PredictArguments],
    ) -> Prediction:
        """As `Client.predict`; files are read in a thread."""
        call = calls.predict(await run_sync(read_inputs, inputs), arguments)
        patience = self._transport.endpoint.patience_of(timeout_s)
        return await self._transport.run(operations.message_of(Prediction, call, patience))

    async def outputs(
        self,
        inputs: Input | Sequence[Input],
        *,
        timeout_s: float | None = None,
        **arguments: Unpack[PredictArguments],
    ) -> NDArray[np.floating]:
        """As `Client.outputs`; files are read in a thread."""
        call = calls.predict(await run_sync(read_inputs, inputs), arguments, calls.NPY)
        patience = self._transport.endpoint.patience_of(timeout_s)
        return await self._transport.run(operations.array(call, patience))

    async def models(self) -> tuple[messages.ModelSummary, ...]:
        """All models, whether ready, loaded on first use, or unavailable."""
        return (await self._transport.read(messages.ModelList, calls.get("models"))).models

    async def model(self, name: str) -> messages.ServedCard:
        """As `Client.model`."""
        return await self._transport.read(messages.ServedCard, calls.card(name))

    async def layers(self, name: str) -> messages.LayerList:
        """The layers of a model, those that can be explained first. Raises NotFound."""
        return await self._transport.read(messages.LayerList, calls.get("models", name, "layers"))

    async def dead_letters(self, *, model: str | None = None) -> AsyncIterator[DeadLetter]:
        """Jobs that were given up because their workers were lost, newest first; pages are fetched
        as they are needed. This and what follows need a key with the scope `admin`, where there
        are keys."""
        cursor = None
        while True:
            call = calls.get("dead-letters", model=model, cursor=cursor)
            page = await self._transport.read(DeadLetterList, call)
            for one in page.dead_letters:
                yield one
            if (cursor := page.next_cursor) is None:
                return

    async def replay(self, dead_letter_id: str) -> DeadLetter:
        """Have a job that was given up done again, as a new one, which is `replay` of the answer.
        Raises NotFound, and Conflict if its input is not kept any more."""
        return await self._transport.read(DeadLetter, calls.replay(dead_letter_id))

    async def purge(self, dead_letter_id: str | None = None, *, model: str | None = None) -> int:
        """Forget one dead letter, or all of a model, or all; returns how many there were."""
        call = calls.purge(dead_letter_id, model)
        return (await self._transport.read(Purged, call)).purged


class AsyncResult(ResultView):
    """One map, which the service makes into arrays and pictures."""

    def __init__(self, summary: messages.ResultSummary, transport: AsyncTransport) -> None:
        super().__init__(summary)
        self._transport = transport

    async def map(self, **arguments: Unpack[MapArguments]) -> NDArray[np.floating]:
        """The finished map, (height, width) of the upload unless `size` says otherwise."""
        call = calls.file(self.summary.map.href, calls.NPY, arguments)
        return await self._transport.run(operations.array(call, self._transport.endpoint.patience))

    async def npy(self, **arguments: Unpack[MapArguments]) -> bytes:
        """The same as the bytes of a `.npy` file."""
        call = calls.file(self.summary.map.href, calls.NPY, arguments)
        return await self._transport.run(
            operations.content(call, self._transport.endpoint.patience)
        )

    async def overlay(self, form: Form = "png", **arguments: Unpack[PictureArguments]) -> Picture:
        """The map drawn over the upload, as the bytes of a picture file."""
        call = calls.picture(self.summary.overlay.href, form, arguments)
        return await self._transport.run(operations.image(call, self._transport.endpoint.patience))


class AsyncExplanation(ExplanationView[AsyncResult]):
    """An explanation, and what can be done with it."""

    def __init__(self, document: messages.Explanation, transport: AsyncTransport) -> None:
        self._transport = transport
        super().__init__(document)

    def _result(self, summary: messages.ResultSummary) -> AsyncResult:
        return AsyncResult(summary, self._transport)

    async def maps(self) -> NDArray[np.floating]:
        """All maps of the request's size in one array, (results, height, width); of one result,
        (height, width). Raises InvalidRequest if their shapes differ."""
        call = calls.file(self.document.href, calls.NPY, {})
        return await self._transport.run(operations.array(call, self._transport.endpoint.patience))

    async def archive(self) -> bytes:
        """A `.zip` of the explanation's JSON and all its maps."""
        call = calls.file(self.document.href, calls.ZIP, {})
        return await self._transport.run(
            operations.content(call, self._transport.endpoint.patience)
        )

    async def refresh(self) -> Self:
        """Look again: this very object then shows the present state. Raises NotFound."""
        self._show(
            await self._transport.read(messages.Explanation, calls.get("explanations", self.id))
        )
        return self

    async def wait(self, timeout_s: float | None = None) -> Self:
        """Wait until it is finished. Raises ExplanationFailed unless it succeeds, TimedOut."""
        patience = self._transport.endpoint.patience_of(timeout_s)
        self._show(await self._transport.run(operations.waited(self.document, patience)))
        return self

    async def follow(self, timeout_s: float | None = None) -> AsyncIterator[Self]:
        """This very object, whenever it has changed, until it is finished: place in the queue,
        progress, results. Raises TimedOut, Unreachable, NotFound."""
        patience = self._transport.endpoint.patience_of(timeout_s)
        async for document in self._transport.follow(Following(self.document, patience)):
            self._show(document)
            yield self

    async def cancel(self) -> Self:
        """Cancel it; a running one stops when it can, a finished one stays as it is."""
        self._show(await self._transport.read(messages.Explanation, calls.cancel(self.id)))
        return self


def _explain(
    inputs: Any, mask: Any, arguments: ExplainArguments, idempotency_key: str | None
) -> Call:
    return calls.explain(read_inputs(inputs), mask_file(mask), arguments, idempotency_key)
