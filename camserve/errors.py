"""Every error that camserve raises on purpose, in one tree.

    CamserveError
    ├── RequestError           the caller can mend it
    │   ├── ApiKeyMissing, ApiKeyUnknown, SignatureInvalid, ScopeMissing
    │   ├── MalformedRequest   ── EmptyBody
    │   ├── RequestTimeout
    │   ├── InvalidRequest     ── ClassIndexOutOfRange, UnknownLabel, InvalidInput,
    │   │                         InvalidExpression
    │   ├── UnsupportedMediaType, UnreadableImage, CorruptImage
    │   ├── UrlNotAllowed, UrlUnreachable
    │   ├── TooLarge, TooLargeForDevice, OverBudget
    │   ├── NotAcceptable, IdempotencyConflict, NotReady, Canceled, NotReplayable
    │   └── UnknownName        ── ModelNotFound, ExplanationNotFound, LayerNotFound,
    │                             DeadLetterNotFound
    ├── ModelError             the model or its card is at fault
    │   ├── InvalidCard, UnsupportedModel
    │   ├── ModelUnavailable, ModelLoading, ModelQuarantined, ModelChanged
    │   └── NotExplainable, ShapeMismatch
    ├── ServiceError           the service cannot do it now
    │   ├── RateLimited, TooManyConnections, ShuttingDown
    │   └── QueueFull, QueueUnavailable, NoWorker, DeadlineExceeded, WaitExceeded, DeadLettered
    └── Failure                an error that happened in another process, carried by its code

An error says what is wrong and what to do about it; it knows nothing of HTTP. `app/problems.py`
holds the one table from code to status.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, ClassVar

__all__ = [
    "ApiKeyMissing",
    "ApiKeyUnknown",
    "CamserveError",
    "Canceled",
    "ClassIndexOutOfRange",
    "CorruptImage",
    "DeadLetterNotFound",
    "DeadLettered",
    "DeadlineExceeded",
    "EmptyBody",
    "ErrorCode",
    "ExplanationNotFound",
    "Failure",
    "IdempotencyConflict",
    "InvalidCard",
    "InvalidExpression",
    "InvalidInput",
    "InvalidRequest",
    "LayerNotFound",
    "MalformedRequest",
    "ModelChanged",
    "ModelError",
    "ModelLoading",
    "ModelNotFound",
    "ModelQuarantined",
    "ModelUnavailable",
    "NoWorker",
    "NotAcceptable",
    "NotExplainable",
    "NotReady",
    "NotReplayable",
    "OverBudget",
    "QueueFull",
    "QueueUnavailable",
    "RateLimited",
    "RequestError",
    "RequestTimeout",
    "ScopeMissing",
    "ServiceError",
    "ShapeMismatch",
    "ShuttingDown",
    "SignatureInvalid",
    "TooLarge",
    "TooLargeForDevice",
    "TooManyConnections",
    "UnknownLabel",
    "UnknownName",
    "UnreadableImage",
    "UnsupportedMediaType",
    "UnsupportedModel",
    "UrlNotAllowed",
    "UrlUnreachable",
    "WaitExceeded",
    "near_names",
    "one_line",
    "shortened",
]


_LONGEST_NAME = 80


class ErrorCode(StrEnum):
    """What went wrong, for machines. A code is part of the API: it is never renamed."""

    API_KEY_MISSING = "api_key_missing"
    API_KEY_UNKNOWN = "api_key_unknown"
    SIGNATURE_INVALID = "signature_invalid"
    SCOPE_MISSING = "scope_missing"
    MALFORMED_REQUEST = "malformed_request"
    EMPTY_BODY = "empty_body"
    REQUEST_TIMEOUT = "request_timeout"
    INVALID_REQUEST = "invalid_request"
    INVALID_INPUT = "invalid_input"
    CLASS_INDEX_OUT_OF_RANGE = "class_index_out_of_range"
    UNKNOWN_LABEL = "unknown_label"
    INVALID_EXPRESSION = "invalid_expression"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UNREADABLE_IMAGE = "unreadable_image"
    CORRUPT_IMAGE = "corrupt_image"
    TOO_LARGE = "too_large"
    TOO_LARGE_FOR_DEVICE = "too_large_for_device"
    OVER_BUDGET = "over_budget"
    URL_NOT_ALLOWED = "url_not_allowed"
    URL_UNREACHABLE = "url_unreachable"
    NOT_ACCEPTABLE = "not_acceptable"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    NOT_READY = "not_ready"
    CANCELED = "canceled"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MODEL_NOT_FOUND = "model_not_found"
    EXPLANATION_NOT_FOUND = "explanation_not_found"
    LAYER_NOT_FOUND = "layer_not_found"
    INVALID_CARD = "invalid_card"
    UNSUPPORTED_MODEL = "unsupported_model"
    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_LOADING = "model_loading"
    MODEL_QUARANTINED = "model_quarantined"
    MODEL_CHANGED = "model_changed"
    NOT_EXPLAINABLE = "not_explainable"
    SHAPE_MISMATCH = "shape_mismatch"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    SHUTTING_DOWN = "shutting_down"
    QUEUE_FULL = "queue_full"
    QUEUE_UNAVAILABLE = "queue_unavailable"
    NO_WORKER = "no_worker"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    WAIT_EXCEEDED = "wait_exceeded"
    DEAD_LETTERED = "dead_lettered"
    DEAD_LETTER_NOT_FOUND = "dead_letter_not_found"
    NOT_REPLAYABLE = "not_replayable"
    INTERNAL = "internal"


class CamserveError(Exception):
    """Base of all errors raised on purpose.

    `code` is for machines, `str(error)` for people, `extensions` are JSON-ready members that help
    to mend the request (the range, the candidates, the limit, `retry_after_s`).
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, detail: str, **extensions: Any) -> None:
        super().__init__(detail)
        self.extensions: dict[str, Any] = extensions

    @property
    def error_code(self) -> ErrorCode:
        """The code of this very error; a `Failure` carries another process's."""
        return self.code


class RequestError(CamserveError):
    """The caller can mend it by changing the request."""


class ApiKeyMissing(RequestError):
    """Nobody may do this without a key."""

    code = ErrorCode.API_KEY_MISSING


class ApiKeyUnknown(RequestError):
    """What was presented is no key, or none any more. The error never repeats it."""

    code = ErrorCode.API_KEY_UNKNOWN


class SignatureInvalid(RequestError):
    """A link that was not made here, or for something else."""

    code = ErrorCode.SIGNATURE_INVALID

    def __init__(self) -> None:
        super().__init__(
            "the signature of this link is not that of this explanation's results: take the link "
            "as the explanation gives it, or send an API key"
        )


class ScopeMissing(RequestError):
    """The key is good, and may not do this."""

    code = ErrorCode.SCOPE_MISSING

    def __init__(self, name: str, scope: str) -> None:
        super().__init__(
            f"the API key {name!r} lacks the scope '{scope}': ask the operator for a key that has "
            f"it (camserve keys add NAME --scope {scope})",
            scope=scope,
        )


class MalformedRequest(RequestError):
    """The bytes cannot be parsed as what they claim to be."""

    code = ErrorCode.MALFORMED_REQUEST


class EmptyBody(MalformedRequest):
    code = ErrorCode.EMPTY_BODY

    def __init__(
        self, detail: str = "the request has no body: send an image, a form or a JSON document"
    ) -> None:
        super().__init__(detail)


class RequestTimeout(RequestError):
    """The request did not come to its end in time."""

    code = ErrorCode.REQUEST_TIMEOUT

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"the rest of the request did not come within {limit_s:g} s: send it again, whole",
            limit=limit_s,
        )


class InvalidRequest(RequestError):
    """Readable, but it asks for something that has no meaning."""

    code = ErrorCode.INVALID_REQUEST


class InvalidInput(InvalidRequest):
    """An input tensor that the model cannot take (shape, dtype, non-finite values)."""

    code = ErrorCode.INVALID_INPUT


class ClassIndexOutOfRange(InvalidRequest):
    code = ErrorCode.CLASS_INDEX_OUT_OF_RANGE

    def __init__(self, class_index: int, classes: int) -> None:
        known = f"{classes} classes, 0 to {classes - 1} (indices start at 0)"
        if classes == 1:
            known = "one class, of index 0"
        super().__init__(
            f"class index {class_index} is out of range: the model has {known}",
            class_index=class_index,
            minimum=0,
            maximum=classes - 1,
        )


class UnknownLabel(InvalidRequest):
    code = ErrorCode.UNKNOWN_LABEL

    def __init__(self, label: str, labels: Sequence[str]) -> None:
        near = near_names(label, labels)
        hint = f"; did you mean {_quoted(near)}?" if near else ""
        if not labels:
            hint = "; the model has no labels: give a class_index"
        super().__init__(f"the model has no class label {label!r}{hint}", label=label, near=near)


class InvalidExpression(InvalidRequest):
    """An expression that cannot be read, or that has no finite scalar value for an output.

    `column` counts the characters of `expression` from 1 and points at the one at fault; `near`
    are names that a misspelt one may have meant.
    """

    code = ErrorCode.INVALID_EXPRESSION

    def __init__(self, detail: str, expression: str, column: int, near: Sequence[str] = ()) -> None:
        super().__init__(
            f"column {column}: {detail}",
            # half of a surrogate pair is a character of Python's, but of no JSON
            expression=expression.encode(errors="replace").decode(),
            column=column,
            near=list(near),
        )


class UnsupportedMediaType(RequestError):
    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE


class UnreadableImage(RequestError):
    """The bytes are not an image of a kind that camserve reads."""

    code = ErrorCode.UNREADABLE_IMAGE


class CorruptImage(RequestError):
    """An image by its first bytes, but truncated or damaged."""

    code = ErrorCode.CORRUPT_IMAGE


class UrlNotAllowed(RequestError):
    """A URL that camserve is not to call. rule: `off`, `host`, `scheme`, `port` or `address`."""

    code = ErrorCode.URL_NOT_ALLOWED

    def __init__(self, rule: str, detail: str, **extensions: Any) -> None:
        super().__init__(detail, rule=rule, **extensions)
        self.rule = rule


class UrlUnreachable(RequestError):
    """A URL that may be called, and gave nothing. reason: `name`, `refused`, `tls`, `timeout`,
    `broken`, `redirects`, `status`, `encoded` or `too_large`."""

    code = ErrorCode.URL_UNREACHABLE

    def __init__(self, reason: str, detail: str, **extensions: Any) -> None:
        super().__init__(detail, reason=reason, **extensions)
        self.reason = reason


class TooLarge(RequestError):
    """More bytes, pixels or numbers than the service accepts."""

    code = ErrorCode.TOO_LARGE


class TooLargeForDevice(RequestError):
    """One input by itself needs more memory than the worker's device has."""

    code = ErrorCode.TOO_LARGE_FOR_DEVICE


class OverBudget(RequestError):
    """Asks for more computation than the service grants one request."""

    code = ErrorCode.OVER_BUDGET


class NotAcceptable(RequestError):
    code = ErrorCode.NOT_ACCEPTABLE

    def __init__(self, asked: str, possible: Sequence[str]) -> None:
        super().__init__(
            f"cannot answer as {asked!r}: possible are {', '.join(possible)}",
            possible=list(possible),
        )


class IdempotencyConflict(RequestError):
    code = ErrorCode.IDEMPOTENCY_CONFLICT

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the idempotency key {key!r} was used with another request: use a new key, "
            "or repeat the first request unchanged"
        )


class NotReady(RequestError):
    """The explanation has no result yet, or never will have."""

    code = ErrorCode.NOT_READY


class Canceled(RequestError):
    code = ErrorCode.CANCELED

    def __init__(self) -> None:
        super().__init__("the explanation was canceled")


class UnknownName(RequestError):
    """A name that nothing bears; the near ones are listed."""

    code = ErrorCode.NOT_FOUND


class ModelNotFound(UnknownName):
    code = ErrorCode.MODEL_NOT_FOUND

    def __init__(self, model: str, models: Iterable[str]) -> None:
        known = sorted(models)
        near = near_names(model, known)
        hint = f"; did you mean {_quoted(near)}?" if near else ""
        if not near and known:
            others = ", among others" if len(known) > 10 else ""
            hint = f"; there are {_quoted(known[:10])}{others}"
        super().__init__(
            f"there is no model {model!r}{hint}", model=model, near=near, models=known[:10]
        )


class ExplanationNotFound(UnknownName):
    code = ErrorCode.EXPLANATION_NOT_FOUND

    def __init__(self, explanation_id: str) -> None:
        super().__init__(
            f"there is no explanation {explanation_id!r}: it may have outlived its time to live; "
            "ask again",
            id=explanation_id,
        )


class DeadLetterNotFound(UnknownName):
    code = ErrorCode.DEAD_LETTER_NOT_FOUND

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"there is no dead letter {shortened(job_id)!r}: it was purged, or has outlived its "
            "time to live, or the explanation of that id was not given up",
            id=job_id,
        )


class NotReplayable(RequestError):
    """The job was given up, and what it was given is not kept any more."""

    code = ErrorCode.NOT_REPLAYABLE

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"the input of {job_id} is not kept any more: send the request again", id=job_id
        )


class LayerNotFound(UnknownName):
    code = ErrorCode.LAYER_NOT_FOUND

    def __init__(self, layer: str, candidates: Sequence[str]) -> None:
        near = near_names(layer, candidates)
        hint = f"; did you mean {_quoted(near)}?" if near else ""
        super().__init__(
            f"the model has no layer {layer!r}{hint}", layer=layer, candidates=list(candidates)
        )


class ModelError(CamserveError):
    """The model, its files or its card are at fault."""


class InvalidCard(ModelError):
    code = ErrorCode.INVALID_CARD


class UnsupportedModel(ModelError):
    """A model file of a kind that camserve does not load, with the way out."""

    code = ErrorCode.UNSUPPORTED_MODEL


class ModelUnavailable(ModelError):
    """The model could not be loaded (no network, missing package or file): reason and way out."""

    code = ErrorCode.MODEL_UNAVAILABLE


class ModelLoading(ModelError):
    """The model is being loaded for the first time; ask again."""

    code = ErrorCode.MODEL_LOADING


class ModelQuarantined(ModelError):
    """Loading this version of the model ended or stopped the worker process, so it is not loaded
    again until its folder changes or an operator asks for it."""

    code = ErrorCode.MODEL_QUARANTINED

    def __init__(self, model: str, version: str, reason: str) -> None:
        super().__init__(
            f"model {model!r}, version {version}, is quarantined: {reason}. Mend its folder, or "
            f"have it tried once more by POST /v1/models/{model}/load; the worker's log says more",
            version=version,
            reason=reason,
        )


class ModelChanged(ModelError):
    """While the job waited, the model became one that takes or answers something else."""

    code = ErrorCode.MODEL_CHANGED

    def __init__(self, model: str, version: str) -> None:
        super().__init__(
            f"model {model!r} has changed while this waited: version {version} has another input, "
            "other classes or other layers than the one that it was checked against; send it again",
            version=version,
            retry_after_s=1,
        )


class NotExplainable(ModelError):
    """No Grad-CAM exists for this pair of layers (nothing spatial, never ran, no gradient path)."""

    code = ErrorCode.NOT_EXPLAINABLE


class ShapeMismatch(ModelError):
    """Tensors that must have the same shape do not."""

    code = ErrorCode.SHAPE_MISMATCH


class ServiceError(CamserveError):
    """Nothing is wrong with the request; the service cannot do it now."""


class RateLimited(ServiceError):
    """retry_after_s: how long, to the millisecond, until one more is granted."""

    code = ErrorCode.RATE_LIMITED

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"more than {limit} calls a minute are not granted; try again in "
            f"{math.ceil(retry_after_s)} s, or ask the operator for more",
            limit=limit,
            retry_after_s=math.ceil(retry_after_s * 1000) / 1000,
        )


class TooManyConnections(ServiceError):
    code = ErrorCode.TOO_MANY_CONNECTIONS

    def __init__(self, limit: int, retry_after_s: int = 1) -> None:
        super().__init__(
            f"{limit} connections are open, as many as this process serves; try again in "
            f"{retry_after_s} s, and keep fewer of them",
            limit=limit,
            retry_after_s=retry_after_s,
        )


class ShuttingDown(ServiceError):
    """This front end stops before the answer is there; another one, or the next, gives it."""

    code = ErrorCode.SHUTTING_DOWN

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__(
            f"this front end is being stopped or replaced; try again in {retry_after_s} s",
            retry_after_s=retry_after_s,
        )


class QueueFull(ServiceError):
    """retry_after_s: in what time, to the millisecond, those that are before it will be done."""

    code = ErrorCode.QUEUE_FULL

    def __init__(self, model: str, priority: str, depth: int, retry_after_s: float) -> None:
        super().__init__(
            f"{depth} {priority} jobs are waiting for model {model!r}; they will be done in about "
            f"{math.ceil(retry_after_s)} s: try again then",
            limit=depth,
            priority=priority,
            retry_after_s=retry_after_s,
        )


class QueueUnavailable(ServiceError):
    code = ErrorCode.QUEUE_UNAVAILABLE

    def __init__(self, retry_after_s: int = 2) -> None:
        super().__init__(
            f"the queue (Redis) cannot be reached; try again in {retry_after_s} s",
            retry_after_s=retry_after_s,
        )


class NoWorker(ServiceError):
    code = ErrorCode.NO_WORKER

    def __init__(
        self,
        model: str | None,
        retry_after_s: int = 5,
        *,
        execution: str = "auto",
        devices: Sequence[str] = (),
    ) -> None:
        what = f"model {model!r}" if model else "any model"
        if execution == "auto" or not devices:
            super().__init__(
                f"no live worker serves {what}; start one with `python -m workers`, "
                f"or try again in {retry_after_s} s",
                retry_after_s=retry_after_s,
            )
        else:
            super().__init__(
                f"no live worker serves {what} on {execution}: there are workers on "
                f"{', '.join(devices)}; ask for one of these, or start one with CAMSERVE_DEVICES",
                retry_after_s=retry_after_s,
                devices=list(devices),
            )


class DeadlineExceeded(ServiceError):
    code = ErrorCode.DEADLINE_EXCEEDED

    def __init__(self, detail: str = "the deadline passed before the explanation was made") -> None:
        super().__init__(detail)


class WaitExceeded(ServiceError):
    """A call that can only be answered with its result outlasted the server's wait.

    otherwise: where the result will be, or what to ask instead.
    """

    code = ErrorCode.WAIT_EXCEEDED

    def __init__(self, waited_s: float, otherwise: str, **extensions: Any) -> None:
        super().__init__(
            f"not done within {waited_s:g} s, and it goes on: {otherwise}",
            limit=waited_s,
            **extensions,
        )


class DeadLettered(ServiceError):
    """Given up after the allowed number of attempts."""

    code = ErrorCode.DEAD_LETTERED


class Failure(CamserveError):
    """An error of another process, rebuilt from its message."""

    def __init__(self, code: ErrorCode, detail: str, **extensions: Any) -> None:
        super().__init__(detail, **extensions)
        self._code = code

    @property
    def error_code(self) -> ErrorCode:
        return self._code


def shortened(name: str) -> str:
    """A name as an error repeats it: somebody else's, it may be megabytes long."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Up to five of `names` that look like `name`, best first, whatever their case."""
    name = shortened(name)
    by_folded: dict[str, str] = {}
    for known in names:
        by_folded.setdefault(known.casefold(), known)
    folded = name.casefold()
    close = difflib.get_close_matches(folded, by_folded, n=5, cutoff=0.5)
    holding = [key for key in by_folded if folded and folded in key and key not in close]
    return [by_folded[key] for key in (*close, *sorted(holding, key=len))][:5]


def one_line(error: BaseException) -> str:
    """What an error says, as it fits into a sentence."""
    return " ".join(str(error).split())[:300]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
