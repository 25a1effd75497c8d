"""What people do with the real clients. Runs in their own environment: see environment.py.

    python clients.py http://127.0.0.1:8000 FOLDER GUIDE

FOLDER holds `picture.png`, its `pixels.npy` (1, h, w, 3) uint8, and `ready.npy` (1, 3, h, w)
float32, ready for the model `shapes`. Leaves arrays there, and `report.json`: what was answered, by
name, where an exception is its type and text. GUIDE is docs/neighbours.md, whose Python is run.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import urllib.request
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

HEADER = "Inference-Header-Content-Length"
MODEL = "shapes"
OPTIONS = {"class_label": "star", "size": "96"}


class Report:
    """Collects what the calls gave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: dict[str, Any] = {}

    def array(self, name: str, values: Any) -> None:
        np.save(self.folder / f"{name}.npy", np.asarray(values))

    def call(self, name: str, work: Any) -> Any:
        try:
            self.said[name] = work()
        except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
            self.said[name] = [type(error).__name__, str(error)]
        return self.said[name]

    async def wait_for(self, name: str, work: Awaitable[Any]) -> Any:
        try:
            self.said[name] = await work
        except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
            self.said[name] = [type(error).__name__, str(error)]
        return self.said[name]


def post(url: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, int]:
    """The answer to a body that a client made, and how much of it is JSON."""
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        content = response.read()
        return content, int(response.headers.get(HEADER, len(content)))


async def kserve_v1(url: str, report: Report) -> None:
    picture = (report.folder / "picture.png").read_bytes()
    ready = np.load(report.folder / "ready.npy")
    encoded = base64.b64encode(picture).decode()
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        body = {"instances": [{"b64": encoded}], "parameters": OPTIONS}
        answer = await client.explain(url, MODEL, body)
        report.array("kserve-v1", answer["explanations"][0]["map"]["data"])
        answer = await client.explain(
            url, MODEL, {"instances": ready.tolist(), "parameters": OPTIONS | {"size": "feature"}}
        )
        report.array("kserve-v1-ready", answer["explanations"][0]["map"]["data"])
        answer = await client.infer(url, {"instances": [{"b64": encoded}]}, MODEL)
        report.array("kserve-v1-predict", answer["predictions"])
        await report.wait_for("v1 live", client.is_server_live(url))
        await report.wait_for("v1 ready", client.is_model_ready(url, MODEL))
        await report.wait_for("v1 unknown", client.explain(url, "shap", body))
        wrong = body | {"parameters": {"class_label": "stat"}}
        await report.wait_for("v1 wrong", client.explain(url, MODEL, wrong))
        key = {"Idempotency-Key": "kserve"}
        first = await client.explain(url, MODEL, body, headers=key)
        again = await client.explain(url, MODEL, body, headers=key)
        report.said["v1 again"] = first["id"] == again["id"]


async def kserve_v2(url: str, report: Report) -> None:
    picture = (report.folder / "picture.png").read_bytes()
    pixels = np.load(report.folder / "pixels.npy")
    ready = np.load(report.folder / "ready.npy")
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        for binary in (False, True):
            form = "binary" if binary else "json"
            given = InferInput("input", list(ready.shape), "FP32")
            given.set_data_from_numpy(ready, binary_data=binary)
            request = InferRequest(MODEL, [given], parameters={"binary_data_output": binary})
            answer = await client.infer(url, request, MODEL)
            report.array(f"kserve-v2-infer-{form}", answer.outputs[0].as_numpy())

            given = InferInput("input", list(pixels.shape), "UINT8")
            given.set_data_from_numpy(pixels, binary_data=binary)
            outputs = [
                RequestedOutput("map", {"binary_data": binary}),
                RequestedOutput("class_label"),
            ]
            request = InferRequest(
                MODEL, [given], parameters=dict(OPTIONS), request_outputs=outputs
            )
            body, length = request.to_rest()
            headers = {HEADER: str(length)} if length else {"Content-Type": "application/json"}
            content = body if length else json.dumps(body).encode()
            answered = InferResponse.from_bytes(
                *post(f"{url}/v2/models/{MODEL}/explain", content, headers)
            )
            report.array(f"kserve-v2-pixels-{form}", answered.outputs[0].as_numpy()[0])
            report.said[f"v2 label {form}"] = list(answered.outputs[1].data)

        file = InferInput("input", [1], "BYTES")
        file.set_data_from_numpy(np.array([picture], dtype=np.object_))
        await report.wait_for("v2 unknown", client.infer(url, InferRequest("shap", [file]), "shap"))
        await report.wait_for("v2 live", client.is_server_live(url))
        await report.wait_for("v2 server", client.is_server_ready(url))
        await report.wait_for("v2 ready", client.is_model_ready(url, MODEL))
        out_of_reach = InferRequest("resnet50", [file])
        await report.wait_for("v2 unavailable", client.infer(url, out_of_reach, "resnet50"))
        await report.wait_for("v2 not ready", client.is_model_ready(url, "resnet50"))
        await report.wait_for("v2 none", client.is_model_ready(url, "shap"))


def triton_v2(url: str, report: Report) -> None:
    picture = (report.folder / "picture.png").read_bytes()
    ready = np.load(report.folder / "ready.npy")
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        metadata = client.get_model_metadata(MODEL)
        report.said["metadata"] = metadata
        (version,) = metadata["versions"]
        report.call("live", client.is_server_live)
        report.call("server", client.is_server_ready)
        report.call("ready", lambda: client.is_model_ready(MODEL, version))
        report.call("other version", lambda: client.is_model_ready(MODEL, "1"))
        report.call("extensions", lambda: client.get_server_metadata()["extensions"])
        report.call("index", client.get_model_repository_index)
        report.call("unknown", lambda: client.get_model_metadata("shap"))
        report.call("load", lambda: client.load_model(MODEL))
        report.call("load config", lambda: client.load_model(MODEL, config="{}"))
        report.call("load unknown", lambda: client.load_model("shap"))
        report.call("unload", lambda: client.unload_model("resnet50"))
        report.call("config", lambda: client.get_model_config(MODEL))

        (described,) = metadata["inputs"]
        for binary in (False, True):
            form = "binary" if binary else "json"
            given = triton.InferInput(described["name"], list(ready.shape), described["datatype"])
            given.set_data_from_numpy(ready, binary_data=binary)
            wanted = [triton.InferRequestedOutput("output", binary_data=binary)]
            answer = client.infer(MODEL, [given], outputs=wanted, request_id="mine")
            report.array(f"triton-infer-{form}", answer.as_numpy("output"))
            report.said[f"id {form}"] = answer.get_response()["id"]

            # a file as it is, or as text in JSON
            element = picture if binary else base64.b64encode(picture)
            file = triton.InferInput("input", [1], "BYTES")
            file.set_data_from_numpy(np.array([element], dtype=np.object_), binary_data=binary)
            names = ("map", "score", "class_index", "class_label", "input_index")
            body, length = client.generate_request_body(
                [file],
                outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in names],
                parameters=OPTIONS,
            )
            headers = {HEADER: str(length)} if length else {"Content-Type": "application/json"}
            content, length = post(f"{url}/v2/models/{MODEL}/explain", body, headers)
            answer = client.parse_response_body(content, header_length=length if binary else None)
            report.array(f"triton-{form}", answer.as_numpy("map")[0])
            report.array(f"triton-score-{form}", answer.as_numpy("score"))
            report.said[f"class {form}"] = [
                answer.as_numpy("class_index").tolist(),
                [bytes(x).decode() if binary else str(x) for x in answer.as_numpy("class_label")],
                answer.as_numpy("input_index").tolist(),
            ]
        # without `outputs`, the client asks for all of them as binary data
        report.array("triton-infer-default", client.infer(MODEL, [given]).as_numpy("output"))
        asked = client.async_infer(MODEL, [given], timeout=20_000_000, priority=1)
        report.array("triton-infer-async", asked.get_result().as_numpy("output"))
        given.set_shape([1, 3, 2, 2])
        report.call("wrong shape", lambda: client.infer(MODEL, [given]))
        report.call("sequence", lambda: client.infer(MODEL, [given], sequence_id=5))
        report.call(
            "compressed", lambda: client.infer(MODEL, [given], request_compression_algorithm="gzip")
        )


def guide(url: str, report: Report, text: str) -> None:
    """The Python of the guide, each block by itself, as people paste it."""
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        source = block.replace("http://127.0.0.1:8000", url)
        names: dict[str, Any] = {}
        exec(compile(source, f"block {number}", "exec"), names)
        report.said[f"guide {number}"] = list(names["heatmap"].shape)


def main() -> None:
    url, report = sys.argv[1], Report(Path(sys.argv[2]))
    guide(url, report, Path(sys.argv[3]).read_text())
    asyncio.run(kserve_v1(url, report))
    asyncio.run(kserve_v2(url, report))
    triton_v2(url, report)
    (report.folder / "report.json").write_text(json.dumps(report.said))


if __name__ == "__main__":
    main()
