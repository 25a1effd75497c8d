"""What OpenAPI cannot learn from the code: body forms, flat fields, problems, binary answers."""

from __future__ import annotations

import copy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from app.flat_fields import FLAT_FIELDS, REPEATABLE
from app.negotiation import JSON
from app.problem_texts import ADVICE, TITLE
from app.problems import MEDIA_TYPE, STATUS
from app.security_schemes import describe_security
from app.uploads import RAW_TYPES
from camserve.contracts.layers import LAYER_HELP
from camserve.contracts.options import OutputOptions
from camserve.contracts.requests import ExplanationRequest
from camserve.vocabulary import REDUCTIONS

__all__ = [
    "CACHING",
    "CREATE_BODY",
    "DESCRIPTION",
    "FLAT_QUERY",
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
    {"name": "models", "description": "Which models there are, and what is known of each."},
    {"name": "health", "description": "For load balancers and orchestrators."},
]

# a whole PNG file, so that "Try it out" in /docs works as it is
_GRAY_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_SCHEMAS = "#/components/schemas/{model}"
_BINARY = {"type": "string", "format": "binary"}

_EXTRA_FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "class_index": (
        "Class to explain, counted from 0; repeat it, or separate by commas, for several.",
        {"type": "integer", "minimum": 0, "examples": [3]},
    ),
    "class_label": ("Class to explain by its label; may be repeated.", {"type": "string"}),
    "top": ("Explain the k best classes of each input.", {"type": "integer", "minimum": 1}),
    "reduction": (
        "Name of a reduction to explain instead of a class; may be repeated.",
        {"type": "string", "examples": list(REDUCTIONS)},
    ),
    "params": ("Parameters of the reduction, as a JSON object.", {"type": "string"}),
    "expression": (
        "Expression to explain instead of a class; may be repeated.",
        {"type": "string", "examples": ["x[3] - x[5]"]},
    ),
    "feature_layer": (
        f"Layer to explain; repeat it for several, whose maps are fused. {LAYER_HELP}",
        {"type": "string"},
    ),
    "method_options": ("Options of the method, as a JSON object.", {"type": "string"}),
    "evaluate": ("How to put the map to the test, as a JSON object.", {"type": "string"}),
}


def _components(*models: type[BaseModel]) -> dict[str, Any]:
    """JSON schemas of `models` and all that they refer to, as OpenAPI components."""
    schemas: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(ref_template=_SCHEMAS)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return schemas


def _flat_schema(name: str) -> tuple[str, dict[str, Any]]:
    """Description and schema of a flat field: that of the nested field it stands for."""
    if name in _EXTRA_FIELDS:
        description, schema = _EXTRA_FIELDS[name]
        return description, {"type": "array", "items": schema} if name in REPEATABLE else schema
    for model in (ExplanationRequest, OutputOptions):
        properties = model.model_json_schema(ref_template=_SCHEMAS)["properties"]
        if name in properties:
            schema = copy.deepcopy(properties[name])
            return schema.pop("description", ""), _without_null(schema)
    raise KeyError(name)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Of a field that is left out where JSON may say null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    del schema["anyOf"]
    if schema.get("default", "") is None:
        del schema["default"]
    merged: dict[str, Any] = kinds[0] | schema
    return merged


# `a=1&a=2`, not `a=1,2`
_REPEATED = {"style": "form", "explode": True}
_FLAT = {name: _flat_schema(name) for name in FLAT_FIELDS}

FLAT_QUERY = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": f"With a raw file as body. {description}",
        "x-body": "raw",  # for the page /docs
        # without its default, which the page /docs would send along with every other body, too
        "schema": {key: value for key, value in schema.items() if key != "default"},
        **(_REPEATED if name in REPEATABLE else {}),
    }
    for name, (description, schema) in _FLAT.items()
]

CREATE_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {
            "schema": {"$ref": _SCHEMAS.format(model=ExplanationRequest.__name__)},
            "example": {
                "model": "shapes",
                "inputs": [{"image": {"base64": _GRAY_PIXEL}}],
                "targets": [{"class_label": "star"}],
            },
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "input": {
                        "type": "array",
                        "items": _BINARY,
                        "description": "Picture or .npy files.",
                    },
                    "mask": {
                        **_BINARY,
                        "description": "Region of the one reduction `segmentation`: a picture or "
                        ".npy file of the input's size.",
                    },
                    "request": {
                        "type": "string",
                        "description": "The JSON request, for what flat fields cannot say.",
                    },
                    **{
                        name: schema | {"description": description}
                        for name, (description, schema) in _FLAT.items()
                    },
                },
            },
            "encoding": dict.fromkeys(REPEATABLE, _REPEATED),
        },
        **{media_type: {"schema": _BINARY} for media_type in RAW_TYPES},
    },
}


_HEADERS = {
    "Cache-Control": "How long a browser may keep it, and whether it must ask again.",
    "ETag": "Tag of this very content, for `If-None-Match`.",
    "Server-Timing": "Milliseconds: `prepare` (decode, resize), `queue`, `compute`, `present`.",
    "Location": "Address of the explanation.",
    "Preference-Applied": "What of `Prefer` was honoured.",
    "Retry-After": "Seconds after which to try again, where that can help.",
    "WWW-Authenticate": "How to present an API key.",
    "X-Request-ID": "The id of the request, the caller's if it sent one; it is in the logs.",
}
CACHING = ("ETag", "Cache-Control")
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
                    "schema": {"$ref": _SCHEMAS.format(model="Problem")},
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


_PROBLEM = {
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


def binary(*media_types: str) -> dict[str, Any]:
    """The `content` of an answer that is a file."""
    return {media_type: {"schema": _BINARY} for media_type in media_types}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI derives, with the parts that only we know."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        components |= _components(ExplanationRequest) | {"Problem": _PROBLEM}
        for unused in ("HTTPValidationError", "ValidationError"):  # ours are problems
            components.pop(unused, None)
        refusals = {str(status): response for status, response in problems(401, 403).items()}
        describe_security(schema, copy.deepcopy(refusals))
        for operation in (one for path in schema["paths"].values() for one in path.values()):
            if JSON in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
            for status, response in operation["responses"].items():
                names = [name for name, statuses in _OF_STATUS.items() if status in statuses]
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
