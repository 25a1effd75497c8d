"""The three body forms of a request, and its flat fields, as OpenAPI describes them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from app.flat_fields import REPEATABLE, flat_fields
from app.negotiation import JSON
from app.uploads import RAW_TYPES
from camserve.contracts.layers import LAYER_HELP
from camserve.contracts.options import OutputOptions
from camserve.contracts.requests import InputsRequest
from camserve.vocabulary import REDUCTIONS

__all__ = [
    "BINARY",
    "GRAY_PICTURE",
    "GRAY_PIXEL",
    "SCHEMAS",
    "flat_query",
    "request_body",
    "with_inputs",
]

# a whole PNG file, so that "Try it out" in /docs works as it is
GRAY_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
SCHEMAS: Final = "#/components/schemas/{model}"
BINARY: Final = {"type": "string", "format": "binary"}
_OBJECT: Final = {"type": "string", "minLength": 2, "contentMediaType": JSON}

_NESTED_FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "url": (
        "Picture or .npy file to fetch; repeat it for several, which come behind files.",
        {"type": "string", "examples": ["https://images.example.com/cat.jpg"]},
    ),
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
    "params": ("Parameters of the reduction, as a JSON object.", _OBJECT),
    "expression": (
        "Expression to explain instead of a class; may be repeated.",
        {"type": "string", "examples": ["x[3] - x[5]"]},
    ),
}
# own fields that a flat form spells in its own way
_SPELT_FLAT: dict[str, tuple[str, dict[str, Any]]] = {
    "feature_layer": (
        f"Layer to explain; repeat it for several, whose maps are fused. {LAYER_HELP}",
        {"type": "string"},
    ),
    "method_options": ("Options of the method, as a JSON object.", _OBJECT),
    "evaluate": ("How to put the map to the test, as a JSON object.", _OBJECT),
}
_MASK: Final = {
    **BINARY,
    "description": "Region of the one reduction `segmentation`: a picture or .npy file of the "
    "input's size.",
}
# `a=1&a=2`, not `a=1,2`
_REPEATED: Final = {"style": "form", "explode": True}

GRAY_PICTURE: Final = {"image": {"base64": GRAY_PIXEL}}
"""An input of an example."""


def flat_query(contract: type[InputsRequest]) -> list[dict[str, Any]]:
    """The options of a request with a raw file as body, as query parameters."""
    return [
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
        for name, (description, schema) in _flat_schemas(contract).items()
    ]


def request_body(contract: type[InputsRequest], example: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request, in all its forms; `example` is its JSON."""
    flat = _flat_schemas(contract)
    form: dict[str, Any] = {
        "input": {"type": "array", "items": BINARY, "description": "Picture or .npy files."},
        **({"mask": _MASK} if "targets" in contract.model_fields else {}),
        "request": {
            **_OBJECT,
            "description": "The JSON request, for what flat fields cannot say.",
        },
        **{name: schema | {"description": text} for name, (text, schema) in flat.items()},
    }
    if "model" in form:  # the one field that the page /docs fills in: it must be there
        form["model"] = form["model"] | {"x-prefill": "shapes"}
    repeated = {name: _REPEATED for name in flat if name in REPEATABLE}
    return {
        "required": True,
        "content": {
            JSON: {
                "schema": {"$ref": SCHEMAS.format(model=contract.__name__)},
                "example": example,
            },
            "multipart/form-data": {
                "schema": {"type": "object", "additionalProperties": False, "properties": form},
                **({"encoding": repeated} if repeated else {}),
            },
            **{media_type: {"schema": BINARY} for media_type in RAW_TYPES},
        },
    }


def with_inputs(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a request in JSON, where alone its inputs are in the document: one at least."""
    inputs = dict(schema["properties"]["inputs"])
    inputs.pop("default", None)
    properties = schema["properties"] | {"inputs": inputs | {"minItems": 1}}
    required = dict.fromkeys((*schema.get("required", ()), "inputs"))
    return schema | {"properties": properties, "required": list(required)}


def _flat_schemas(contract: type[InputsRequest]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Description and schema of each flat field: those of the nested field it stands for."""
    known = contract.model_json_schema(ref_template=SCHEMAS)["properties"]
    of_output = OutputOptions.model_json_schema(ref_template=SCHEMAS)["properties"]
    found = {}
    for name in flat_fields(contract):
        special = _SPELT_FLAT if name in known else _NESTED_FIELDS
        if name in special:
            description, schema = special[name]
            if name in REPEATABLE:
                schema = {"type": "array", "items": schema}
        else:
            schema = copy.deepcopy(known[name] if name in known else of_output[name])
            description, schema = schema.pop("description", ""), _without_null(schema)
        found[name] = (description, schema)
    return found


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
