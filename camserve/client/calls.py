"""The calls of the API as values: what to send, and what came back. No bytes move here."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

import httpx

from camserve.client.arguments import cache_headers, explain_document, predict_document, query
from camserve.client.errors import UnexpectedAnswer
from camserve.client.inputs import InputFile, Inputs

__all__ = [
    "JSON",
    "NPY",
    "ZIP",
    "Answer",
    "Call",
    "Form",
    "Lost",
    "cancel",
    "card",
    "explain",
    "file",
    "get",
    "picture",
    "predict",
    "purge",
    "replay",
]

JSON: Final = "application/json"
NPY: Final = "application/x-npy"
ZIP: Final = "application/zip"
EXPLANATIONS: Final = "/v1/explanations"
DEAD_LETTERS: Final = "/v1/dead-letters"

Form: TypeAlias = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True)
class Call:
    """One request. `path` is below the base URL; `wait_s` is how long the service is asked to hold
    the call for a result, None for calls that it is not asked to; `answer_s` how long it may take
    besides. `is_answer_if_503`: JSON of that status is no problem, but what was asked for."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    accept: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    document: bytes | None = None
    files: Sequence[tuple[str, InputFile]] = ()
    wait_s: int | None = None
    answer_s: float = 30.0
    is_answer_if_503: bool = False

    def held_for(self, wait_s: int) -> Call:
        """The same, held by the service for at most so many seconds."""
        return replace(self, wait_s=wait_s)

    def request_headers(self) -> dict[str, str]:
        headers = {"Accept": self.accept, **self.headers}
        if self.wait_s is not None:
            headers["Prefer"] = f"wait={self.wait_s}" if self.wait_s else "respond-async"
        if self.document is not None and not self.files:
            headers["Content-Type"] = JSON
        return headers

    def body(self) -> dict[str, Any]:
        """As arguments of httpx's `build_request`."""
        if self.document is None:
            return {}
        if not self.files:
            return {"content": self.document}
        files = [(name, (file.name, file.data)) for name, file in self.files]
        return {"data": {"request": self.document.decode()}, "files": files}


@dataclass(frozen=True)
class Answer:
    """What came back, whole. url: that was asked, for messages."""

    status: int
    headers: httpx.Headers
    body: bytes
    url: httpx.URL

    @property
    def media_type(self) -> str:
        return str(self.headers.get("content-type", "")).partition(";")[0].strip()


@dataclass(frozen=True)
class Lost:
    """Nothing came back, or not all of it: whether the service got the request is not known."""

    error: httpx.RequestError
    url: httpx.URL


def explain(
    inputs: Inputs,
    mask: InputFile | None,
    arguments: Mapping[str, Any],
    idempotency_key: str | None,
) -> Call:
    """Its key makes a repeated call the same explanation."""
    sent = [("input", file) for file in inputs.files]
    if mask is not None:
        sent.append(("mask", mask))
    return Call(
        "POST",
        EXPLANATIONS,
        headers={
            "Idempotency-Key": idempotency_key or str(uuid.uuid4()),
            **cache_headers(arguments),
        },
        document=explain_document(inputs.urls, arguments),
        files=sent,
    )


def predict(inputs: Inputs, arguments: Mapping[str, Any], accept: str = JSON) -> Call:
    """The service answers once it is done; what is repeated is computed again."""
    return Call(
        "POST",
        f"/v1/models/{quote(arguments['model'], safe='')}/predict",
        accept=accept,
        headers=cache_headers(arguments),
        document=predict_document(inputs.urls, arguments),
        files=[("input", file) for file in inputs.files],
        answer_s=math.inf,
    )


def get(*segments: str, **arguments: Any) -> Call:
    """Read what is at /v1/<segments>, each of which may hold any character."""
    path = "/".join(["/v1", *(quote(segment, safe="") for segment in segments)])
    return Call("GET", _with_query(path, arguments))


def card(model: str) -> Call:
    """A model's card, which comes with 503 where a request would be refused now."""
    return replace(get("models", model), is_answer_if_503=True)


def cancel(explanation_id: str) -> Call:
    return Call("DELETE", f"{EXPLANATIONS}/{quote(explanation_id, safe='')}")


def replay(letter_id: str) -> Call:
    """Safe to repeat while the replay is open."""
    return Call("POST", f"{DEAD_LETTERS}/{quote(letter_id, safe='')}/replay")


def purge(letter_id: str | None, model: str | None) -> Call:
    """Forget one dead letter, or all of a model, or all."""
    if letter_id is not None:
        return Call("DELETE", f"{DEAD_LETTERS}/{quote(letter_id, safe='')}")
    return Call("DELETE", _with_query(DEAD_LETTERS, {"model": model}))


def file(href: str, media_type: str, arguments: Mapping[str, Any]) -> Call:
    """What is behind a link, as a file of that type."""
    return Call("GET", _with_query(_path_of(href), arguments), accept=media_type)


def picture(href: str, form: Form, arguments: Mapping[str, Any]) -> Call:
    """The picture behind the link of an overlay."""
    return file(href, f"image/{form}", arguments)


def _path_of(href: str) -> str:
    """A link of an answer, which must lead to the service itself: the API key goes with it."""
    if not href.startswith("/") or href.startswith("//"):
        raise UnexpectedAnswer(f"a link of the answer leads elsewhere: {href!r}")
    return href


def _with_query(path: str, arguments: Mapping[str, Any]) -> str:
    """`path` with its own query, in which `arguments` win."""
    given = query(arguments)
    if not given:
        return path
    url = httpx.URL(path).copy_merge_params(given)
    return f"{url.path}?{urlencode(list(url.params.multi_items()))}"
