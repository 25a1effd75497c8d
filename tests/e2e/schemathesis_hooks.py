"""What Schemathesis cannot know from the document: which model is there, and what a picture is.

The document is tested as it is but for this: a field that names a model takes the one that is
there, a picture in JSON is one, and files are pictures half of the time. Else nearly all that is
generated would be refused at the first look.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.service import ROOT

BODIES_WITH_OPTIONS = ("application/json", "multipart/form-data")
MODEL = "shapes"
EXECUTION = {"enum": ["auto", "cpu"]}  # a device that is not there is a 503
SOON_MS = 30_000
STAR = (ROOT / "models" / "shapes" / "samples" / "star.png").read_bytes()
SMALL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff")
FILES = st.one_of(st.just(STAR), st.binary())


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    schemas = raw_schema["components"]["schemas"]
    schemas["Image"] |= {"properties": {"base64": {"enum": [SMALL]}}, "required": ["base64"]}
    for schema in schemas.values():
        fields = schema.get("properties", {})
        if "inputs" in fields and "model" in fields:
            fields["model"]["enum"] = [MODEL]
        if "execution" in fields and "priority" in fields:
            fields["execution"] = EXECUTION
    for path, operation in operations(raw_schema):
        for parameter in operation.get("parameters", ()):
            if parameter["name"] == "model" and path != "/v1/explanations":
                parameter["schema"] = parameter["schema"] | {"enum": [MODEL]}
            if parameter["name"] == "execution":
                parameter["schema"] = EXECUTION
        content = operation.get("requestBody", {}).get("content", {})
        if "multipart/form-data" in content:
            narrow_form(content["multipart/form-data"]["schema"])


def narrow_form(form: dict[str, Any]) -> None:
    fields = form["properties"]
    form["required"] = ["input", *({"model"} & set(fields))]
    fields["input"] = fields["input"] | {"minItems": 1, "maxItems": 2}
    for name in set(fields) & {"request", "params", "method_options", "evaluate"}:
        fields[name] = fields[name] | {"enum": ["{}"]}
    fields["execution"] = EXECUTION
    if "model" in fields:
        fields["model"]["enum"] = [MODEL]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


for media_type in PICTURES:
    schemathesis.openapi.media_type(media_type, FILES)
schemathesis.openapi.format("binary", FILES)


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """With a body that holds the options, those of a raw body are left out, as /docs does.

    Nor is an idempotency key kept, which every request would share, nor a deadline that a busy
    machine misses.
    """
    for name in ("Idempotency-Key", "Inference-Header-Content-Length"):
        (case.headers or {}).pop(name, None)
    for fields in (case.query, case.body):
        deadline_ms = fields.get("deadline_ms") if isinstance(fields, dict) else None
        if type(deadline_ms) is int and 1 <= deadline_ms < SOON_MS:
            del fields["deadline_ms"]
    if case.media_type in BODIES_WITH_OPTIONS and case.query:
        for parameter in context.operation.definition.raw.get("parameters", ()):
            if parameter.get("x-body") == "raw":
                case.query.pop(parameter["name"], None)
    return case
