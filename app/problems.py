"""RFC 9457 problem details: the only place that knows which error is which HTTP status."""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.findings import invalid_request, models_in
from app.neighbours.error_form import MEDIA_TYPE as NEIGHBOURS_MEDIA_TYPE
from app.neighbours.error_form import in_their_form, is_neighbours
from app.problem_texts import TITLE
from app.request_log import note_error
from camserve.errors import (
    CamserveError,
    ErrorCode,
    Failure,
    MalformedRequest,
    near_names,
)

__all__ = ["MEDIA_TYPE", "STATUS", "install", "problem_response"]

MEDIA_TYPE = "application/problem+json"

STATUS: dict[ErrorCode, int] = {
    ErrorCode.API_KEY_MISSING: 401,
    ErrorCode.API_KEY_UNKNOWN: 401,
    ErrorCode.SIGNATURE_INVALID: 401,
    ErrorCode.SCOPE_MISSING: 403,
    ErrorCode.MALFORMED_REQUEST: 400,
    ErrorCode.EMPTY_BODY: 400,
    ErrorCode.REQUEST_TIMEOUT: 408,
    ErrorCode.INVALID_REQUEST: 422,
    ErrorCode.INVALID_INPUT: 422,
    ErrorCode.CLASS_INDEX_OUT_OF_RANGE: 422,
    ErrorCode.UNKNOWN_LABEL: 422,
    ErrorCode.INVALID_EXPRESSION: 422,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.UNREADABLE_IMAGE: 415,
    ErrorCode.CORRUPT_IMAGE: 422,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.TOO_LARGE_FOR_DEVICE: 413,
    ErrorCode.OVER_BUDGET: 422,
    ErrorCode.URL_NOT_ALLOWED: 422,
    ErrorCode.URL_UNREACHABLE: 422,
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
    ErrorCode.MODEL_QUARANTINED: 503,
    ErrorCode.MODEL_CHANGED: 503,
    ErrorCode.NOT_EXPLAINABLE: 422,
    ErrorCode.SHAPE_MISMATCH: 422,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.TOO_MANY_CONNECTIONS: 503,
    ErrorCode.SHUTTING_DOWN: 503,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.QUEUE_UNAVAILABLE: 503,
    ErrorCode.NO_WORKER: 503,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.WAIT_EXCEEDED: 504,
    ErrorCode.DEAD_LETTERED: 500,
    ErrorCode.DEAD_LETTER_NOT_FOUND: 404,
    ErrorCode.NOT_REPLAYABLE: 409,
    ErrorCode.INTERNAL: 500,
}


def problem_response(error: CamserveError, request: Request | None = None) -> Response:
    """The error as `application/problem+json`, with `Retry-After` where it says when; under the
    addresses of other protocols in the form of these."""
    code = error.error_code
    note_error(error)
    document: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": TITLE[code],
        "status": STATUS[code],
        "code": code,
        "detail": str(error),
    }
    if request is not None:
        document["instance"] = request.url.path
        request.state.problem_code = code  # for who counts them
        if request_id := getattr(request.state, "request_id", None):
            document["request_id"] = request_id
    extensions = {name: v for name, v in error.extensions.items() if name not in document}
    headers = {}
    if code in _CHALLENGES:
        headers["WWW-Authenticate"] = _CHALLENGES[code]
    if code in _LAST:
        headers["Connection"] = "close"
    if "retry_after_s" in extensions:
        headers["Retry-After"] = str(math.ceil(extensions["retry_after_s"]))
    # RFC 9110, 15.5.16: what would have been read
    for member, name in _OF_MEMBER.items():
        if member in extensions:
            headers[name] = ", ".join(extensions[member])
    document |= extensions
    media_type = MEDIA_TYPE
    if request is not None and is_neighbours(request.url.path):
        document, media_type = in_their_form(document), NEIGHBOURS_MEDIA_TYPE
    return Response(orjson.dumps(document), STATUS[code], headers, media_type=media_type)


def install(app: FastAPI) -> None:
    """Answer every error that a route may raise with a problem."""

    @app.exception_handler(CamserveError)
    async def known(request: Request, error: CamserveError) -> Response:
        return problem_response(error, request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        asked = getattr(request.scope.get("route"), "dependant", None)
        annotations = [field.field_info.annotation for field in asked.query_params] if asked else []
        models = [one for annotation in annotations for one in models_in(annotation)]
        return problem_response(invalid_request(error, *models), request)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = _BY_STATUS.get(error.status_code, ErrorCode.INTERNAL)
        detail = str(error.detail)
        if code is ErrorCode.NOT_FOUND:
            # in a thread: the first time, the document takes a good part of a second to make
            paths = (await asyncio.to_thread(app.openapi))["paths"]
            near = near_names(request.url.path, paths)
            detail = f"nothing is at {request.url.path}; see /docs"
            response = problem_response(Failure(code, detail, near=near), request)
        else:
            if code is ErrorCode.METHOD_NOT_ALLOWED:
                detail = f"{request.url.path} does not know {request.method}"
            response = problem_response(Failure(code, detail), request)
        response.headers.update(error.headers or {})
        if code is ErrorCode.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = ", ".join(_allowed(app, request))
        return response

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> Response:
        # nobody reads it, and nothing is wrong with us
        return problem_response(MalformedRequest("the body was not sent to its end"), request)


def _allowed(app: FastAPI, request: Request) -> list[str]:
    """The methods of the address, of all its routes: each alone knows its own."""

    def is_known(method: str) -> bool:
        asked = "GET" if method == "HEAD" else method  # as app.head_requests asks
        scope = {**request.scope, "method": asked}
        return any(route.matches(scope)[0] is Match.FULL for route in app.routes)

    return [method for method in _METHODS if is_known(method)]


# RFC 6750, 3: who sent nothing is told the scheme, and who sent something also what is wrong
_CHALLENGES: dict[ErrorCode, str] = {
    ErrorCode.API_KEY_MISSING: 'Bearer realm="camserve"',
    ErrorCode.API_KEY_UNKNOWN: 'Bearer realm="camserve", error="invalid_token"',
    ErrorCode.SIGNATURE_INVALID: 'Bearer realm="camserve"',
    ErrorCode.SCOPE_MISSING: 'Bearer realm="camserve", error="insufficient_scope"',
}

# after these the connection is of no use; RFC 9110, 15.5.9
_LAST = {
    ErrorCode.REQUEST_TIMEOUT,
    ErrorCode.TOO_MANY_CONNECTIONS,
    ErrorCode.SHUTTING_DOWN,
}
_OF_MEMBER = {"supported": "Accept", "encodings": "Accept-Encoding"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_BY_STATUS: dict[int, ErrorCode] = {
    HTTPStatus.BAD_REQUEST: ErrorCode.MALFORMED_REQUEST,
    HTTPStatus.NOT_FOUND: ErrorCode.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: ErrorCode.METHOD_NOT_ALLOWED,
}
