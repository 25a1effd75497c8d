"""The client for programs that wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx

from camserve.client import calls, operations
from camserve.client.arguments import ExplainArguments, MapArguments, PictureArguments
from camserve.client.calls import Answer, Call, Form, Lost
from camserve.client.inputs import Input, input_files, mask_file
from camserve.client.operations import Operation, Outcome, Send, Step
from camserve.client.pictures import Picture
from camserve.client.transport import Endpoint, OnWait, request_of
from camserve.client.views import ExplanationView, ResultView
from camserve.contracts import explanations as messages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Client", "Explanation", "Result"]

T = TypeVar("T")


class Transport:
    """Does the steps of operations, one after the other."""

    def __init__(self, endpoint: Endpoint, on_wait: OnWait | None) -> None:
        self.endpoint = endpoint
        self._http = httpx.Client(**endpoint.client_options())
        self._on_wait = on_wait

    def close(self) -> None:
        self._http.close()

    def read(self, kind: type[operations.M], call: Call) -> operations.M:
        """A message that is answered at once."""
        return self.run(operations.message_of(kind, call, self.endpoint.patience))

    def run(self, operation: Operation[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = operation.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            outcome = self._do(step)

    def _do(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            return self._send(step)
        if self._on_wait is not None:
            self._on_wait(step)
        time.sleep(step.seconds)
        return None

    def _send(self, send: Send) -> Answer | Lost:
        request = request_of(self._http, send)
        until_s = time.monotonic() + send.timeout_s
        try:
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > until_s:  # httpx's own timeout is for each part
                        raise httpx.ReadTimeout("the answer was not whole in time")
            finally:
                response.close()
        except httpx.RequestError as error:
            return Lost(error, request.url)
        return Answer(response.status_code, response.headers, bytes(body), request.url)


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
        self._transport = Transport(endpoint, on_wait)

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

    def models(self) -> tuple[messages.ModelSummary, ...]:
        """All models, whether ready, loaded on first use, or unavailable."""
        return self._transport.read(messages.ModelList, calls.get("models")).models

    def model(self, name: str) -> messages.ServedCard:
        """The whole card of a model, and whether it is ready. Raises NotFound."""
        return self._transport.read(messages.ServedCard, calls.get("models", name))

    def layers(self, name: str) -> messages.LayerList:
        """The layers of a model, those that can be explained first. Raises NotFound."""
        return self._transport.read(messages.LayerList, calls.get("models", name, "layers"))


class Result(ResultView):
    """One map, which the service makes into arrays and pictures."""

    def __init__(self, summary: messages.ResultSummary, transport: Transport) -> None:
        super().__init__(summary)
        self._transport = transport

    def map(self, **arguments: Unpack[MapArguments]) -> NDArray[np.float32]:
        """The finished map: float32, (height, width) of the upload unless `size` says otherwise."""
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

    def __init__(self, document: messages.Explanation, transport: Transport) -> None:
        self._transport = transport
        super().__init__(document)

    def _result(self, summary: messages.ResultSummary) -> Result:
        return Result(summary, self._transport)

    def maps(self) -> NDArray[np.float32]:
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

    def cancel(self) -> Self:
        """Cancel it; a running one stops when it can, a finished one stays as it is."""
        self._show(self._transport.read(messages.Explanation, calls.cancel(self.id)))
        return self


def _explain(
    inputs: Any, mask: Any, arguments: ExplainArguments, idempotency_key: str | None
) -> Call:
    return calls.explain(input_files(inputs), mask_file(mask), arguments, idempotency_key)
