"""RFC 9457 problem details: the only place that knows which error is which HTTP status."""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, get_args

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.problem_texts import TITLE
from app.request_ids import HEADER as REQUEST_ID
from camserve.contracts.layers import FEATURE_FORMAT
from camserve.contracts.options import SIZE, SIZE_HELP
from camserve.contracts.reductions import REDUCTION_NAME
from camserve.contracts.requests import EXECUTION
from camserve.contracts.targets import TARGET_KEYS
from camserve.dimensions import FORMAT
from camserve.errors import (
    CamserveError,
    ErrorCode,
    Failure,
    InvalidRequest,
    MalformedRequest,
    near_names,
)

__all__ = ["MEDIA_TYPE", "STATUS", "install", "invalid_request", "problem_response"]

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: dict[ErrorCode, int] = {
    ErrorCode.MALFORMED_REQUEST: 400,
    ErrorCode.EMPTY_BODY: 400,
    ErrorCode.INVALID_REQUEST: 422,
    ErrorCode.INVALID_INPUT: 422,
    ErrorCode.CLASS_INDEX_OUT_OF_RANGE: 422,
    ErrorCode.UNKNOWN_LABEL: 422,
    ErrorCode.INVALID_EXPRESSION: 422,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.UNREADABLE_IMAGE: 415,
    ErrorCode.CORRUPT_IMAGE: 422,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.OVER_BUDGET: 422,
    ErrorCode.NOT_ACCEPTABLE: 406,
    ErrorCode.IDEMPOTENCY_CONFLICT: 409,
    ErrorCode.NOT_READY: 409,
    ErrorCode.CANCELED: 409,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.MODEL_NOT_FOUND: 404,
    ErrorCode.EXPLANATION_NOT_FOUND: 404,
    ErrorCode.LAYER_NOT_FOUND: 404,
    ErrorCode.INVALID_CARD: 503,
    ErrorCode.UNSUPPORTED_MODEL: 503,
    ErrorCode.MODEL_UNAVAILABLE: 503,
    ErrorCode.MODEL_LOADING: 503,
    ErrorCode.NOT_EXPLAINABLE: 422,
    ErrorCode.SHAPE_MISMATCH: 422,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.QUEUE_UNAVAILABLE: 503,
    ErrorCode.NO_WORKER: 503,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.DEAD_LETTERED: 500,
    ErrorCode.INTERNAL: 500,
}


def problem_response(error: CamserveError, request: Request | None = None) -> Response:
    """The error as `application/problem+json`, with `Retry-After` where it says when."""
    code = error.error_code
    document: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": TITLE[code],
        "status": STATUS[code],
        "code": code,
        "detail": str(error),
    }
    if request is not None:
        document["instance"] = request.url.path
        if request_id := getattr(request.state, "request_id", None):
            document["request_id"] = request_id
    extensions = {name: v for name, v in error.extensions.items() if name not in document}
    headers = {}
    if "retry_after_s" in extensions:
        headers["Retry-After"] = str(math.ceil(extensions["retry_after_s"]))
    return Response(
        orjson.dumps(document | extensions), STATUS[code], headers, media_type=MEDIA_TYPE
    )


def invalid_request(
    error: ValidationError | RequestValidationError, *models: type[BaseModel]
) -> InvalidRequest:
    """Pydantic's findings in one sentence, with every field that is wrong.

    models: those whose fields were expected, to tell a misspelt one what it should have been.
    """
    # a misspelt field is the reason why another is missing
    errors = sorted(error.errors(), key=lambda found: found["type"] != _UNKNOWN)
    by_field: dict[str, dict[str, str]] = {}
    for found in errors[:20]:
        finding = _finding(found, models)
        # a list where a single item may stand, too, is not told that it is none
        if finding["field"] not in by_field or found["type"] in ("too_short", "too_long"):
            by_field[finding["field"]] = finding
    # a list with a wrong item is reported as too short, too: the item is what is wrong
    findings = [
        finding
        for field, finding in by_field.items()
        if not any(other.startswith(f"{field}.") for other in by_field)
    ]
    first = findings[0]
    where = f"{first['field']}: " if first["field"] else ""
    return InvalidRequest(f"{where}{first['detail']}", field=first["field"], errors=findings)


_UNION_MEMBER = re.compile(r"\[|constrained-")
_TAGS = frozenset({"image", "tensor", *TARGET_KEYS})
_UNKNOWN, _PATTERN = "extra_forbidden", "string_pattern_mismatch"
_NUMBER, _WHOLE = "must be a number", "must be a whole number"
_BOOLEAN, _OBJECT, _LIST = "must be true or false", "must be an object", "must be a list"
# pydantic's types of errors in the words of people who never heard of it, with its context
_WORDS = {
    "missing": "is required",
    "too_short": "needs at least {min_length}",
    "too_long": "takes at most {max_length}",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dict_type": _OBJECT,
    "string_type": "must be a string",
    "string_too_short": "needs at least {min_length} character(s)",
    "string_too_long": "takes at most {max_length} characters",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}


# what a text must be that has to follow a pattern
_PATTERNS = {
    SIZE: f"must be one of {SIZE_HELP}",
    FORMAT: "must be made of the letters B, C, S, T and U, one for each dimension, as in SSC",
    FEATURE_FORMAT: "must be made of the letters B, C, S, T and U, one for each dimension, as in "
    "BSSC; of tokens with their grid, as in BTC:14x14",
    EXECUTION: "must be one of auto, cpu, cuda, or a GPU as in cuda:1",
    REDUCTION_NAME: "must be a name of small letters, digits and _",
}


def _known_fields(models: Sequence[type[BaseModel]], location: Sequence[str]) -> set[str]:
    """Names of the fields at `location`, whichever member of a union is meant there."""
    for part in location:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [one for field in fields for one in _models_in(field.annotation)] or models
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _finding(found: Any, models: Sequence[type[BaseModel]]) -> dict[str, str]:
    location = [str(part) for part in found["loc"]]
    if location and location[0] in {"body", "query", "path", "header"}:
        location = location[1:]
    if len(location) > 3 and location[1].isdigit() and location[2] in _TAGS:
        del location[2]  # pydantic names a union's tag too: targets.0.top.top is targets.0.top
    if found["type"] != _UNKNOWN:  # and its members: targets.0.class_index.tuple[...]
        location = [part for part in location if not _UNION_MEMBER.search(part)]
    message = str(found["msg"]).removeprefix("Value error, ")
    if found["type"] == _UNKNOWN:
        near = near_names(location[-1], _known_fields(models, location[:-1]))
        message = f"unknown field {location[-1]!r}" + (
            f"; did you mean {near[0]!r}?" if near else ""
        )
    elif found["type"] == _PATTERN:
        message = _PATTERNS.get(found.get("ctx", {}).get("pattern", ""), message)
    elif found["type"] in _WORDS:
        message = _WORDS[found["type"]].format_map(found.get("ctx", {}))
    return {"field": ".".join(location), "detail": message}


def install(app: FastAPI) -> None:
    """Answer every error of every route with a problem; no traceback leaves the house."""

    @app.exception_handler(CamserveError)
    async def known(request: Request, error: CamserveError) -> Response:
        return problem_response(error, request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        asked = getattr(request.scope.get("route"), "dependant", None)
        annotations = [field.field_info.annotation for field in asked.query_params] if asked else []
        models = [one for annotation in annotations for one in _models_in(annotation)]
        return problem_response(invalid_request(error, *models), request)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = _BY_STATUS.get(error.status_code, ErrorCode.INTERNAL)
        detail = str(error.detail)
        if code is ErrorCode.NOT_FOUND:
            near = near_names(request.url.path, app.openapi()["paths"])
            detail = f"nothing is at {request.url.path}; see /docs"
            response = problem_response(Failure(code, detail, near=near), request)
        else:
            if code is ErrorCode.METHOD_NOT_ALLOWED:
                detail = f"{request.url.path} does not know {request.method}"
            response = problem_response(Failure(code, detail), request)
        response.headers.update(error.headers or {})
        if response.headers.get("Allow", "").startswith("GET"):
            response.headers["Allow"] += ", HEAD"
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        error_id = secrets.token_hex(6)
        logger.error("error %s at %s", error_id, request.url.path, exc_info=error)
        failure = Failure(
            ErrorCode.INTERNAL, f"look for {error_id} in the log of the API", error_id=error_id
        )
        response = problem_response(failure, request)
        # this handler alone runs outside of the middleware that does it
        response.headers[REQUEST_ID] = str(getattr(request.state, "request_id", ""))
        return response

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> Response:
        # nobody reads it, and nothing is wrong with us
        return problem_response(MalformedRequest("the body was not sent to its end"), request)


_BY_STATUS: dict[int, ErrorCode] = {
    HTTPStatus.BAD_REQUEST: ErrorCode.MALFORMED_REQUEST,
    HTTPStatus.NOT_FOUND: ErrorCode.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: ErrorCode.METHOD_NOT_ALLOWED,
}
