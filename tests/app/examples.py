"""One exchange per operation of the API, as committed in openapi/examples.

    python -m tests.app.examples http://127.0.0.1:8000

writes them anew from a running service.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.service import ROOT

__all__ = ["FOLDER", "NAMES", "exchange", "masked", "requests"]

FOLDER = ROOT / "openapi" / "examples"
SAMPLE = ROOT / "models" / "shapes" / "samples" / "star.png"
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}-shapes")
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z$")
# what differs from run to run, or from machine to machine
_VARYING = {
    *("queue", "compute", "total", "workers", "queue_depth", "resident_on", "p50_ms", "found"),
    *("request_id", "version", "versions", "model_version"),
}


def _small_picture() -> str:
    file = io.BytesIO()
    with Image.open(SAMPLE) as image:
        image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def requests() -> dict[str, dict[str, Any]]:
    """The request of each operation; `{id}` is that of the explanation made by the first."""
    create: dict[str, Any] = {
        "model": "shapes",
        "inputs": [{"image": {"base64": _small_picture()}}],
        "targets": [{"class_label": "star"}, {"class_index": 4}],
    }
    results = "/v1/explanations/{id}/results/0"
    return {
        "create": {"method": "POST", "path": "/v1/explanations", "json": create},
        "create-refused": {
            "method": "POST",
            "path": "/v1/explanations",
            "json": create | {"targets": [{"class_index": 8}]},
        },
        "list": {"method": "GET", "path": "/v1/explanations?model=shapes&limit=100"},
        "read": {"method": "GET", "path": "/v1/explanations/{id}"},
        "follow": {"method": "GET", "path": "/v1/explanations/{id}/events"},
        "cancel": {"method": "DELETE", "path": "/v1/explanations/{id}"},
        "map": {"method": "GET", "path": f"{results}/map?as=json&size=6x4"},
        "overlay": {"method": "GET", "path": f"{results}/overlay?view=contour&size=128"},
        "list-models": {"method": "GET", "path": "/v1/models"},
        "read-model": {"method": "GET", "path": "/v1/models/shapes"},
        "layers": {"method": "GET", "path": "/v1/models/shapes/layers"},
        "predict": {
            "method": "POST",
            "path": "/v1/models/shapes/predict",
            "json": {"inputs": create["inputs"], "top": 3},
        },
        "unload": {"method": "POST", "path": "/v1/models/shapes/unload"},
        "load": {"method": "POST", "path": "/v1/models/shapes/load"},
        "dead-letters": {"method": "GET", "path": "/v1/dead-letters?model=shapes"},
        "dead-letter": {"method": "GET", "path": "/v1/dead-letters/{id}"},
        "replay": {"method": "POST", "path": "/v1/dead-letters/{id}/replay"},
        "remove-dead-letter": {"method": "DELETE", "path": "/v1/dead-letters/{id}"},
        "purge-dead-letters": {"method": "DELETE", "path": "/v1/dead-letters?model=shapes"},
        "alive": {"method": "GET", "path": "/livez"},
        "ready": {"method": "GET", "path": "/readyz"},
        "metrics": {"method": "GET", "path": "/metrics"},
        **_of_neighbours(create["inputs"][0]["image"]["base64"]),
    }


def _of_neighbours(picture: str) -> dict[str, dict[str, Any]]:
    """KServe V1 and the Open Inference Protocol."""
    file = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [picture]}
    asked = {"class_label": "star", "size": "4x4"}
    get = {
        "server": "/v2",
        "live": "/v2/health/live",
        "ready": "/v2/health/ready",
        "models": "/v2/models",
        "model": "/v2/models/shapes",
        "model-ready": "/v2/models/shapes/ready",
    }
    return {
        "kserve-explain": {
            "method": "POST",
            "path": "/v1/models/shapes:explain",
            "json": {"instances": [{"b64": picture}], "parameters": asked},
        },
        "kserve-refused": {
            "method": "POST",
            "path": "/v1/models/shapes:explain",
            "json": {"instances": [{"b64": picture}], "parameters": {"class_label": "stat"}},
        },
        "open-inference-explain": {
            "method": "POST",
            "path": "/v2/models/shapes/explain",
            "json": {"id": "mine", "inputs": [file], "parameters": asked},
        },
        "kserve-predict": {
            "method": "POST",
            "path": "/v1/models/shapes:predict",
            "json": {"instances": [{"b64": picture}]},
        },
        "open-inference-infer": {
            "method": "POST",
            "path": "/v2/models/shapes/infer",
            "json": {"id": "mine", "inputs": [file]},
        },
        **{f"open-inference-{name}": {"method": "GET", "path": url} for name, url in get.items()},
        **{
            f"open-inference-{kind}": {
                "method": "POST",
                "path": f"/v2/repository/models/shapes/{kind}",
                "json": {},
            }
            for kind in ("load", "unload")
        },
        "open-inference-index": {
            "method": "POST",
            "path": "/v2/repository/index",
            "json": {"ready": True},
        },
    }


NAMES = tuple(requests())


def exchange(client: httpx.Client, request: dict[str, Any], job_id: str) -> dict[str, Any]:
    """The answer to a request: status, content type and body (of a picture, its size)."""
    path = request["path"].replace("{id}", job_id)
    response = client.request(request["method"], path, json=request.get("json"))
    content_type = response.headers["content-type"]
    body: Any = response.text
    if content_type.startswith("image/"):
        with Image.open(io.BytesIO(response.content)) as image:
            body = {"width": image.width, "height": image.height}
    elif "json" in content_type:
        body = response.json()
        if isinstance(body, list):
            body = _of_shapes(body)
    elif path == "/metrics":  # which there are, with their types; the numbers are of the moment
        body = sorted(line[7:] for line in response.text.splitlines() if line.startswith("# TYPE "))
    elif content_type.startswith("text/event-stream"):
        lines = response.text.splitlines()
        body = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
    if (
        isinstance(body, dict) and "explanations" in body and "next_cursor" in body
    ):  # others explain beside us
        body["explanations"] = [one for one in body["explanations"] if one["id"] == job_id]
        body["next_cursor"] = None
    if isinstance(body, dict) and "models" in body:  # other models come and go
        body["models"] = _of_shapes(body["models"])
    return {"status": response.status_code, "content_type": content_type, "body": body}


def _of_shapes(models: list[Any]) -> list[Any]:
    return [one for one in models if (one if isinstance(one, str) else one["name"]) == "shapes"]


def masked(value: Any, name: str = "", *, exact: bool = False) -> Any:
    """`value` without what differs from run to run; numbers, unless `exact`, as near ones."""
    if name in _VARYING:
        return type(value).__name__
    if isinstance(value, dict):
        return {key: masked(member, key, exact=exact) for key, member in value.items()}
    if isinstance(value, list):
        return [masked(item, exact=exact) for item in value]
    if isinstance(value, str):
        return "TIME" if _TIME.match(value) else _ID.sub("ID", value)
    if isinstance(value, float) and not exact:
        return pytest.approx(value, rel=1e-3, abs=1e-4)  # another processor rounds otherwise
    return value


def main() -> None:
    with httpx.Client(base_url=sys.argv[1], timeout=60, trust_env=False) as client:
        job_id = ""
        for name, request in requests().items():
            response = exchange(client, request, job_id)
            if name == "create":
                job_id = response["body"]["id"]
            text = json.dumps({"request": request, "response": response}, indent=2)
            Path(FOLDER / f"{name}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
