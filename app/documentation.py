"""What OpenAPI cannot learn from the code: problems, headers, binary answers, what is shared."""

from __future__ import annotations

import threading
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from app.body_documentation import BINARY, SCHEMAS, with_inputs
from app.neighbours.error_form import MEDIA_TYPE as NEIGHBOURS_MEDIA_TYPE
from app.neighbours.error_form import in_their_form, is_neighbours
from app.problem_texts import ADVICE, TITLE
from app.problems import MEDIA_TYPE, STATUS
from app.security_schemes import describe_security
from app.webhooks.documentation import describe_webhooks
from camserve.contracts.kserve import InstancesRequest
from camserve.contracts.open_inference import (
    InferenceRequest,
    RepositoryLoad,
    RepositoryQuery,
    RepositoryUnload,
)
from camserve.contracts.requests import ExplanationRequest, PredictionRequest

__all__ = [
    "CACHING",
    "DESCRIPTION",
    "NOT_MODIFIED",
    "TAGS",
    "binary",
    "document",
    "header",
    "problems",
]

DESCRIPTION = """\
Which parts of this input made the network say that?

Name a model, give a picture and a class: get the Grad-CAM map as an array or as an overlay.

    curl -F model=shapes -F input=@star.png -H 'Accept: image/png' \\
         http://127.0.0.1:8000/v1/explanations -o overlay.png

Class indices start at 0. Every error is an RFC 9457 problem with a `code` and a remedy.
"""

# in the order of a first reading
TAGS = [
    {
        "name": "explanations",
        "description": "Ask which parts of an input made the network say that.",
    },
    {"name": "results", "description": "Maps and pictures of a finished explanation, in any size."},
    {
        "name": "models",
        "description": "Which models there are, what is known of each, and what it predicts.",
    },
    {
        "name": "KServe V1",
        "description": "For clients of KServe: the same explanations, by `:explain`.",
    },
    {
        "name": "Open Inference V2",
        "description": "For clients of KServe, Triton and MLServer: tensors in, tensors out.",
    },
    {"name": "administration", "description": "What the operator tells the workers."},
    {"name": "health", "description": "For load balancers and orchestrators."},
]


def _components(*models: type[BaseModel]) -> dict[str, Any]:
    """JSON schemas of `models` and all that they refer to, as OpenAPI components."""
    schemas: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(ref_template=SCHEMAS)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return schemas


_HEADERS = {
    "Cache-Control": "How long a browser may keep it, and whether it must ask again.",
    "Cache-Status": "RFC 9211, where results are kept: `camserve; hit` if an earlier one answered "
    "it, else `fwd=miss`, or `fwd=request` if `Cache-Control` asked for a computation; `stored` if "
    "the result is kept.",
    "Content-Disposition": "A name for the file, of arrays and archives.",
    "ETag": "Tag of this very content, for `If-None-Match`.",
    "Server-Timing": "Milliseconds: `prepare` (decode, resize), `queue`, `compute`, `present`.",
    "Link": "`rel=next`: the next page.",
    "Inference-Header-Content-Length": "Bytes of JSON in a body with binary tensors.",
    "Location": "Address of the explanation, or of the model.",
    "Preference-Applied": "What of `Prefer` was honoured.",
    "Retry-After": "Seconds after which to try again, where that can help.",
    "WWW-Authenticate": "How to present an API key.",
    "RateLimit": "`r` calls are left now, and one more in `t` seconds; where there is a limit.",
    "RateLimit-Policy": "`q` calls that make work are granted in `w` seconds.",
    "X-Request-ID": "The id of the request, the caller's if it sent one; it is in the logs.",
}
CACHING = ("ETag", "Cache-Control")
# of all answers to a call that makes work, but to a caller who is not known
_QUOTA = ("RateLimit", "RateLimit-Policy")
_OF_STATUS = {
    "Retry-After": frozenset({"409", "429", "503"}),
    "WWW-Authenticate": frozenset({"401", "403"}),
}


def header(*names: str) -> dict[str, Any]:
    """The `headers` of an answer."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


NOT_MODIFIED: dict[str, Any] = {
    "description": "`If-None-Match` names what it still is.",
    "headers": header(*CACHING),
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that may answer with problems of these statuses."""
    return {
        status: {
            "description": "; ".join(TITLE[code] for code in TITLE if STATUS[code] == status),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": SCHEMAS.format(model="Problem")},
                    "example": _example_of(status),
                }
            },
        }
        for status in statuses
    }


def _example_of(status: int) -> dict[str, Any]:
    code = next(code for code in TITLE if STATUS[code] == status)
    return {
        "type": f"/problems/{code}",
        "title": TITLE[code],
        "status": status,
        "code": code,
        "detail": ADVICE[code],
    }


_PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457 problem details; further members depend on the code.",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "additionalProperties": True,
    "properties": {
        "type": {"type": "string", "description": "`/problems/<code>`, a page that explains it."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted(TITLE)},
        "detail": {"type": "string", "description": "What is wrong and what to do about it."},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
    },
}


_NEIGHBOURS_ERROR = _PROBLEM | {
    "title": "NeighboursError",
    "description": "What the clients of KServe and Triton read, and all members of a `Problem`.",
    "required": ["error", "type", "title", "status", "code"],
    "properties": in_their_form(_PROBLEM["properties"]),
}


def _put_into_their_form(schema: dict[str, Any]) -> None:
    """The problems of the neighbours' protocols, as their clients get them."""
    theirs = {NEIGHBOURS_MEDIA_TYPE: {"schema": {"$ref": SCHEMAS.format(model="NeighboursError")}}}
    for path, operations in schema["paths"].items():
        if not is_neighbours(path):
            continue
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if MEDIA_TYPE in response.get("content", {}):  # which others may share
                    operation["responses"][status] = response | {"content": theirs}


def binary(*media_types: str) -> dict[str, Any]:
    """The `content` of an answer that is a file."""
    return {media_type: {"schema": BINARY} for media_type in media_types}


_one_derives = threading.Lock()


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI derives, with the parts that only we know. From any
    thread."""
    with _one_derives:  # FastAPI's derivation fails where several threads are in it
        return _derived(app)


def _derived(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        contracts = (
            *(ExplanationRequest, PredictionRequest),
            *(InstancesRequest, InferenceRequest),
            *(RepositoryLoad, RepositoryQuery, RepositoryUnload),
        )
        components |= _components(*contracts) | {
            "Problem": _PROBLEM,
            "NeighboursError": _NEIGHBOURS_ERROR,
        }
        for contract in (ExplanationRequest, PredictionRequest):
            components[contract.__name__] = with_inputs(components[contract.__name__])
        for unused in ("HTTPValidationError", "ValidationError"):  # ours are problems
            components.pop(unused, None)
        describe_webhooks(schema)
        describe_security(schema, problems)
        _put_into_their_form(schema)
        for operation in (one for path in schema["paths"].values() for one in path.values()):
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            for status, response in operation["responses"].items():
                names = [name for name, statuses in _OF_STATUS.items() if status in statuses]
                if "429" in operation["responses"] and status not in {"401", "403"}:
                    names += _QUOTA
                response.setdefault("headers", {}).update(header(*names, "X-Request-ID"))
        schema["components"]["headers"] = {
            name: {
                "description": description,
                "schema": {"type": "integer" if name == "Retry-After" else "string"},
            }
            for name, description in _HEADERS.items()
        }
        app.openapi_schema = schema
    return app.openapi_schema
