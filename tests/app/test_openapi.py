"""The OpenAPI document: committed, complete, and true to the answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.documents import inline_uploads
from app.flat_fields import flat_fields
from app.main import create_app
from app.negotiation import JSON, NPY, PICTURES, ZIP
from app.openapi import PATH, render
from app.pictures import decode_picture
from app.problems import MEDIA_TYPE, STATUS
from app.uploads import RAW_TYPES
from camserve.contracts.requests import ExplanationRequest
from camserve.contracts.states import TERMINAL
from camserve.errors import ErrorCode
from camserve.settings import Settings

DOCUMENT: dict[str, Any] = json.loads(render())
FLAT_FIELDS = flat_fields(ExplanationRequest)
CREATE = DOCUMENT["paths"]["/v1/explanations"]["post"]


def test_the_committed_document_is_that_of_the_code() -> None:
    assert PATH.read_text("utf-8") == render(), "run `python -m app.openapi`"


def test_the_check_tells_a_drift(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from app import openapi

    monkeypatch.setattr(openapi, "PATH", tmp_path / "openapi.json")
    monkeypatch.setattr(sys, "argv", ["openapi"])
    assert openapi.main() == 0
    monkeypatch.setattr(sys, "argv", ["openapi", "--check"])
    assert openapi.main() == 0
    openapi.PATH.write_text("{}")
    assert openapi.main() == 1


def test_the_front_end_never_imports_torch() -> None:
    code = "import sys, app.main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    known |= {f"#/components/headers/{name}" for name in DOCUMENT["components"]["headers"]}
    used = set(references(DOCUMENT))
    assert used <= known
    assert known - used <= {"#/components/schemas/Problem"}, "an unused schema confuses"


def test_operations_read_well() -> None:
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        "POST /v1/explanations",
        "GET /v1/explanations",
        "GET /v1/explanations/{explanation_id}/events",
        "GET /v1/explanations/{explanation_id}",
        "DELETE /v1/explanations/{explanation_id}",
        "GET /v1/explanations/{explanation_id}/results/{number}/map",
        "GET /v1/explanations/{explanation_id}/results/{number}/overlay",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "GET /v1/models/{model}/layers",
        "POST /v1/models/{model}/predict",
        "POST /v1/models/{model}/load",
        "POST /v1/models/{model}/unload",
        "GET /v1/dead-letters",
        "DELETE /v1/dead-letters",
        "GET /v1/dead-letters/{letter_id}",
        "DELETE /v1/dead-letters/{letter_id}",
        "POST /v1/dead-letters/{letter_id}/replay",
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
        "POST /v1/models/{model}:explain",
        "POST /v1/models/{model}:predict",
        "GET /v2",
        "GET /v2/health/live",
        "GET /v2/health/ready",
        "GET /v2/models",
        "GET /v2/models/{model}",
        "GET /v2/models/{model}/ready",
        "POST /v2/models/{model}/explain",
        "POST /v2/models/{model}/infer",
        "POST /v2/repository/index",
        "POST /v2/repository/models/{model}/load",
        "POST /v2/repository/models/{model}/unload",
    }
    for name, operation in operations.items():
        assert operation["summary"], name
        for response in operation["responses"].values():
            assert response["description"] != "Successful Response", (name, "is FastAPI's, for all")
        assert operation["description"].endswith((".", ")")), name
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (name, parameter["name"])
    summaries = [operation["summary"] for operation in operations.values()]
    assert len(set(summaries)) == len(summaries)


def test_operations_come_in_groups_that_are_described() -> None:
    described = [tag["name"] for tag in DOCUMENT["tags"]]
    used = [
        tag for path in DOCUMENT["paths"].values() for one in path.values() for tag in one["tags"]
    ]
    assert set(used) == set(described)
    assert described[0] == "explanations"
    assert all(tag["description"].endswith(".") for tag in DOCUMENT["tags"])


def test_a_field_of_a_form_is_left_out_and_never_null() -> None:
    form = CREATE["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert not re.search(r'"null"|None', json.dumps(form))
    assert list(form)[:5] == ["input", "mask", "request", "model", "class_index"]


def test_examples_of_problems_are_problems() -> None:
    for status, response in CREATE["responses"].items():
        if example := response["content"].get(MEDIA_TYPE, {}).get("example"):
            assert example["status"] == int(status) == STATUS[ErrorCode(example["code"])]


def test_the_three_bodies_are_described() -> None:
    content = CREATE["requestBody"]["content"]
    assert set(content) == {JSON, "multipart/form-data", *RAW_TYPES}
    form = content["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"input", "mask", "request", *FLAT_FIELDS}
    query = {p["name"]: p for p in CREATE["parameters"] if p["in"] == "query"}
    assert set(query) == {"as", *FLAT_FIELDS}
    for name in FLAT_FIELDS:
        assert form["properties"][name]["description"], name
        assert query[name]["schema"], name
    assert set(CREATE["responses"]["200"]["content"]) == {JSON, NPY, ZIP, *PICTURES}
    assert "202" in CREATE["responses"]


def test_operations_have_names_for_generated_clients() -> None:
    names = [one["operationId"] for path in DOCUMENT["paths"].values() for one in path.values()]
    explanations = {
        "list_explanations",
        "follow_explanation",
        "explain",
        "read_explanation",
        "cancel_explanation",
        "read_map",
        "read_overlay",
    }
    others = {
        "list_models",
        "read_model",
        "list_layers",
        "predict",
        "load_model",
        "unload_model",
        "list_dead_letters",
        "read_dead_letter",
        "replay_dead_letter",
        "remove_dead_letter",
        "purge_dead_letters",
        "livez",
        "readyz",
        "metrics",
    }
    assert len(names) == len(set(names))
    open_inference = {"explain", "infer", "metadata", "ready"}
    servers = {"metadata", "live", "ready", "models"}
    neighbours = {
        *("kserve_explain", "kserve_predict"),
        *(f"repository_{name}" for name in ("index", "load", "unload")),
        *(f"open_inference_{name}" for name in open_inference),
        *(f"server_{name}" for name in servers),
    }
    assert set(names) == explanations | others | neighbours


def test_headers_of_answers_are_described() -> None:
    answers = CREATE["responses"]
    limits = {"RateLimit", "RateLimit-Policy"}
    assert set(answers["429"]["headers"]) == {"Retry-After", *limits, "X-Request-ID"}
    assert set(answers["401"]["headers"]) == {"WWW-Authenticate", "X-Request-ID"}
    for path in DOCUMENT["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                assert "X-Request-ID" in response["headers"]


def test_every_operation_says_which_key_it_needs() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert {name: (one["type"], one.get("name")) for name, one in schemes.items()} == {
        "bearer": ("http", None),
        "header": ("apiKey", "X-API-Key"),
        "signature": ("apiKey", "signature"),
    }
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            if path in {"/livez", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready"}:
                assert operation["security"] == []
                assert not {"401", "403"} & set(operation["responses"])
                continue
            *taken, nothing = operation["security"]
            assert nothing == {}  # where no keys are configured
            of_operators = path.endswith("load") or path.startswith("/v1/dead-letters")
            scope = "admin" if of_operators else "explain"
            scope = "metrics" if path == "/metrics" else scope
            expected = [{"bearer": [scope]}, {"header": [scope]}]
            if "/results/" in path or path.endswith("/events"):
                expected.append({"signature": []})
            assert taken == expected, path
            work = method == "post" and path != "/v2/repository/index"
            statuses = {"401", "403", "429"} if work else {"401", "403"}
            assert statuses <= set(operation["responses"]), path
            assert list(operation["responses"]) == sorted(operation["responses"])


def test_repeatable_fields_are_arrays() -> None:
    form = CREATE["requestBody"]["content"]["multipart/form-data"]
    query = {p["name"]: p for p in CREATE["parameters"]}
    for name in ("class_index", "class_label", "reduction"):
        assert form["schema"]["properties"][name]["type"] == "array"
        assert form["encoding"][name]["explode"] is True
        assert query[name]["schema"]["type"] == "array"
        assert query[name]["explode"] is True
    assert query["as"]["schema"]["enum"] == ["json", "npy", "zip", "png", "jpeg", "webp"]


def test_members_of_answers_are_promised() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    explanation = schemas["Explanation"]
    assert set(explanation["required"]) == set(explanation["properties"])
    assert not {"data", "npy_base64"} & set(schemas["MapSummary"]["required"])
    assert schemas["ExplanationRequest"]["required"] == ["model", "inputs"]
    assert schemas["ExplanationRequest"]["properties"]["inputs"]["minItems"] == 1
    alive = DOCUMENT["paths"]["/livez"]["get"]["responses"]["200"]
    assert set(alive["content"]) == {"text/plain"}


def test_every_status_of_a_problem_is_described() -> None:
    for status in set(STATUS.values()) - {405}:  # no documented operation answers that
        response = CREATE["responses"][str(status)]
        assert MEDIA_TYPE in response["content"], status
        assert response["description"], status
    codes = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert codes == sorted(ErrorCode)


def test_the_page_with_the_documentation_can_be_tried_out() -> None:
    """Swagger sends the defaults of query parameters, which go with a raw body alone."""
    for parameter in CREATE["parameters"]:
        assert "default" not in parameter["schema"], parameter["name"]
    example = CREATE["requestBody"]["content"][JSON]["example"]
    asked = ExplanationRequest.model_validate(example)
    (upload,) = inline_uploads(asked)
    assert isinstance(upload.data, bytes)
    image = decode_picture(upload.data, 1).image
    assert image.size == (1, 1)


def test_the_webhook_is_described() -> None:
    (webhook,) = DOCUMENT["webhooks"].values()
    operation = webhook["post"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert names == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    event = DOCUMENT["components"]["schemas"]["WebhookEvent"]
    assert event["required"] == ["type", "timestamp", "data"]
    assert event["properties"]["data"]["$ref"] == "#/components/schemas/Explanation"
    ends = {kind.removeprefix("explanation.") for kind in event["properties"]["type"]["enum"]}
    assert ends == {str(state) for state in TERMINAL}


def test_nothing_of_pydantic_or_fastapi_shows() -> None:
    text = render()
    assert "HTTPValidationError" not in text
    assert not re.search(r"Annotated|Literal\[|typing\.|:class:", text)


@pytest.mark.parametrize(
    "name", ["Explanation", "ExplanationSummary", "ModelSummary", "Link", "DeadLetter"]
)
def test_what_an_answer_holds_is_described(name: str) -> None:
    """All but what its name says in full."""
    plain = {"state", "method", "title", "description", "priority"}
    for member, schema in DOCUMENT["components"]["schemas"][name]["properties"].items():
        text = schema.get("description", "")
        assert member in plain or "$ref" in schema or text.endswith("."), f"{name}.{member}"


def test_several_threads_may_ask_for_the_document() -> None:
    """As the first unknown paths do, for which near ones are looked up."""
    app = create_app(Settings(redis_url="redis://unused"))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: app.openapi(), range(8)))
    assert all(one is found[0] for one in found)
