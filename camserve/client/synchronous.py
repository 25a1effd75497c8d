"""The client for programs that wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

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
from camserve.client.transports import SyncTransport
from camserve.client.views import ExplanationView, ResultView
from camserve.contracts import explanations as messages
from camserve.contracts.dead_letters import DeadLetter, DeadLetterList, Purged
from camserve.contracts.predictions import Prediction
from camserve.contracts.states import State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Client", "Explanation", "Result"]

T = TypeVar("T")


class Client:
    """A connection to a camserve service; a context manager. Threads may share it.

    base_url: of the service; default: CAMSERVE_URL, else http://127.0.0.1:8000. api_key: default:
    CAMSERVE_API_KEY, else none. timeout_s: for a call in all, with its retries and the wait for its
    result. reconnect_s: of these, how long a service that does not answer at all is tried again.
    on_wait: told of every pause, with its seconds and its reason.

    Raises ValueError for what is no URL or key.
    """

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
        self._transport = SyncTransport(endpoint, on_wait)

    @property
    def base_url(self) -> str:
        """Where the service is."""
        return str(self._transport.endpoint.base_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def explain(
        self,
        inputs: Input | Sequence[Input],
        *,
        mask: Input | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        **arguments: Unpack[ExplainArguments],
    ) -> Explanation:
        """Explain one or more inputs, and wait for the results.

        mask: a picture file whose pixels are the region of the one reduction that is asked for.
        timeout_s: default: the client's. idempotency_key: default: one of this call's own, so that
        a retry is never a second explanation.

        Raises ProblemError (InvalidRequest, NotFound, ExplanationFailed, …), Unreachable, TimedOut,
        OSError for a file that cannot be read, and TypeError for what is no input.
        """
        call = _explain(inputs, mask, arguments, idempotency_key)
        patience = self._transport.endpoint.patience_of(timeout_s)
        return Explanation(
            self._transport.run(operations.explained(call, patience)), self._transport
        )

    def submit(
        self,
        inputs: Input | Sequence[Input],
        *,
        mask: Input | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        **arguments: Unpack[ExplainArguments],
    ) -> Explanation:
        """The same without waiting: the explanation as it was accepted. Raises as `explain`."""
        call = _explain(inputs, mask, arguments, idempotency_key)
        patience = self._transport.endpoint.patience_of(timeout_s)
        return Explanation(
            self._transport.run(operations.submitted(call, patience)), self._transport
        )

    def explanation(self, explanation_id: str) -> Explanation:
        """One that was accepted earlier, in its present state. Raises NotFound."""
        call = calls.get("explanations", explanation_id)
        return Explanation(self._transport.read(messages.Explanation, call), self._transport)

    def explanations(
        self, *, model: str | None = None, state: State | Sequence[State] | None = None
    ) -> Iterator[messages.ExplanationSummary]:
        """Recent explanations, newest first, of one model, in one state or several; pages are
        fetched as they are needed. Raises NotFound for a model that is not there."""
        cursor = None
        while True:
            call = calls.get("explanations", model=model, state=state, cursor=cursor)
            page = self._transport.read(messages.ExplanationList, call)
            yield from page.explanations
            if (cursor := page.next_cursor) is None:
                return

    def predict(
        self,
        inputs: Input | Sequence[Input],
        *,
        timeout_s: float | None = None,
        **arguments: Unpack[PredictArguments],
    ) -> Prediction:
        """What the model itself says of one or more inputs: its best classes, or its numbers.

        Raises as `explain`.
        """
        call = calls.predict(read_inputs(inputs), arguments)
        patience = self._transport.endpoint.patience_of(timeout_s)
        return self._transport.run(operations.message_of(Prediction, call, patience))

    def outputs(
        self,
        inputs: Input | Sequence[Input],
        *,
        timeout_s: float | None = None,
        **arguments: Unpack[PredictArguments],
    ) -> NDArray[np.floating]:
        """The model's raw output, float32, one row an input. Raises as `explain`."""
        call = calls.predict(read_inputs(inputs), arguments, calls.NPY)
        patience = self._transport.endpoint.patience_of(timeout_s)
        return self._transport.run(operations.array(call, patience))

    def models(self) -> tuple[messages.ModelSummary, ...]:
        """All models, whether ready, loaded on first use, or unavailable."""
        return self._transport.read(messages.ModelList, calls.get("models")).models

    def model(self, name: str) -> messages.ServedCard:
        """The whole card of a model: input, labels, layers, and whether it is `ready`; if it is
        not, `problem` says why. Raises NotFound."""
        return self._transport.read(messages.ServedCard, calls.card(name))

    def layers(self, name: str) -> messages.LayerList:
        """The layers of a model, those that can be explained first. Raises NotFound."""
        return self._transport.read(messages.LayerList, calls.get("models", name, "layers"))

    def dead_letters(self, *, model: str | None = None) -> Iterator[DeadLetter]:
        """Jobs that were given up because their workers were lost, newest first; pages are fetched
        as they are needed. This and what follows need a key with the scope `admin`, where there
        are keys."""
        cursor = None
        while True:
            call = calls.get("dead-letters", model=model, cursor=cursor)
            page = self._transport.read(DeadLetterList, call)
            yield from page.dead_letters
            if (cursor := page.next_cursor) is None:
                return

    def replay(self, dead_letter_id: str) -> DeadLetter:
        """Have a job that was given up done again, as a new one, which is `replay` of the answer.
        Raises NotFound, and Conflict if its input is not kept any more."""
        return self._transport.read(DeadLetter, calls.replay(dead_letter_id))

    def purge(self, dead_letter_id: str | None = None, *, model: str | None = None) -> int:
        """Forget one dead letter, or all of a model, or all; returns how many there were."""
        call = calls.purge(dead_letter_id, model)
        return (self._transport.read(Purged, call)).purged


class Result(ResultView):
    """One map, which the service makes into arrays and pictures."""

    def __init__(self, summary: messages.ResultSummary, transport: SyncTransport) -> None:
        super().__init__(summary)
        self._transport = transport

    def map(self, **arguments: Unpack[MapArguments]) -> NDArray[np.floating]:
        """The finished map, (height, width) of the upload unless `size` says otherwise."""
        call = calls.file(self.summary.map.href, calls.NPY, arguments)
        return self._transport.run(operations.array(call, self._transport.endpoint.patience))

    def npy(self, **arguments: Unpack[MapArguments]) -> bytes:
        """The same as the bytes of a `.npy` file."""
        call = calls.file(self.summary.map.href, calls.NPY, arguments)
        return self._transport.run(operations.content(call, self._transport.endpoint.patience))

    def overlay(self, form: Form = "png", **arguments: Unpack[PictureArguments]) -> Picture:
        """The map drawn over the upload, as the bytes of a picture file."""
        call = calls.picture(self.summary.overlay.href, form, arguments)
        return self._transport.run(operations.image(call, self._transport.endpoint.patience))


class Explanation(ExplanationView[Result]):
    """An explanation, and what can be done with it."""

    def __init__(self, document: messages.Explanation, transport: SyncTransport) -> None:
        self._transport = transport
        super().__init__(document)

    def _result(self, summary: messages.ResultSummary) -> Result:
        return Result(summary, self._transport)

    def maps(self) -> NDArray[np.floating]:
        """All maps of the request's size in one array, (results, height, width); of one result,
        (height, width). Raises InvalidRequest if their shapes differ."""
        call = calls.file(self.document.href, calls.NPY, {})
        return self._transport.run(operations.array(call, self._transport.endpoint.patience))

    def archive(self) -> bytes:
        """A `.zip` of the explanation's JSON and all its maps."""
        call = calls.file(self.document.href, calls.ZIP, {})
        return self._transport.run(operations.content(call, self._transport.endpoint.patience))

    def refresh(self) -> Self:
        """Look again: this very object then shows the present state. Raises NotFound."""
        self._show(self._transport.read(messages.Explanation, calls.get("explanations", self.id)))
        return self

    def wait(self, timeout_s: float | None = None) -> Self:
        """Wait until it is finished. Raises ExplanationFailed unless it succeeds, TimedOut."""
        patience = self._transport.endpoint.patience_of(timeout_s)
        self._show(self._transport.run(operations.waited(self.document, patience)))
        return self

    def follow(self, timeout_s: float | None = None) -> Iterator[Self]:
        """This very object, whenever it has changed, until it is finished: place in the queue,
        progress, results. Raises TimedOut, Unreachable, NotFound."""
        patience = self._transport.endpoint.patience_of(timeout_s)
        for document in self._transport.follow(Following(self.document, patience)):
            self._show(document)
            yield self

    def cancel(self) -> Self:
        """Cancel it; a running one stops when it can, a finished one stays as it is."""
        self._show(self._transport.read(messages.Explanation, calls.cancel(self.id)))
        return self


def _explain(
    inputs: Any, mask: Any, arguments: ExplainArguments, idempotency_key: str | None
) -> Call:
    return calls.explain(read_inputs(inputs), mask_file(mask), arguments, idempotency_key)
