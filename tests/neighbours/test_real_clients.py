"""The clients that people have, against a whole service: their calls, arrays and exceptions; and
the same explanation by every way there is, bit for bit."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.neighbours.environment import Unavailable, client_python, is_required
from tests.service import ROOT, Service

SCRIPT = Path(__file__).parent / "clients.py"
GUIDE = ROOT / "docs" / "neighbours.md"
SAMPLE = ROOT / "models" / "shapes" / "samples" / "heart-star.png"
SIZE = 128  # of the model's input


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, client: httpx.Client) -> Path:
    """The picture as a file, as pixels, and as the model's own input by hand."""
    folder = tmp_path_factory.mktemp("clients")
    picture = Image.open(SAMPLE).convert("RGB")
    picture.save(folder / "picture.png")
    np.save(folder / "pixels.npy", np.asarray(picture)[None])
    spec = client.get("/v1/models/shapes").json()["input"]
    assert (spec["resize"], spec["filter"], spec["format"]) == ("stretch", "bilinear", "BCSS")
    small = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    ready = (small * np.float32(spec["scale"]) - np.float32(spec["mean"])) / np.float32(spec["std"])
    np.save(folder / "ready.npy", np.ascontiguousarray(ready.transpose(2, 0, 1)[None]))
    return folder


@pytest.fixture(scope="module")
def report(service: Service, folder: Path) -> dict[str, Any]:
    """What the clients' script has to say."""
    try:
        python = client_python()
    except Unavailable as error:
        if is_required():
            raise
        pytest.skip(f"the clients of KServe and Triton cannot be installed: {error}")
    ran = subprocess.run(
        [str(python), str(SCRIPT), service.url, str(folder), str(GUIDE)],
        cwd=ROOT,
        check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return dict(json.loads((folder / "report.json").read_text()))


@pytest.fixture(scope="module")
def expected(client: httpx.Client, folder: Path) -> np.ndarray:
    """The map of the sample by our own API, as a raw body."""
    response = client.post(
        "/v1/explanations?model=shapes&class_label=star&size=96&as=npy",
        content=(folder / "picture.png").read_bytes(),
        headers={"Content-Type": "image/png"},
    )
    assert response.status_code == 200, response.text
    return np.asarray(np.load(io.BytesIO(response.content)))


def by_json(client: httpx.Client, picture: bytes) -> np.ndarray:
    body = {
        "model": "shapes",
        "inputs": [{"image": {"base64": base64.b64encode(picture).decode()}}],
        "targets": [{"class_label": "star"}],
        "output": {"size": "96", "map": "list"},
    }
    (result,) = client.post("/v1/explanations", json=body).json()["results"]
    return np.array(result["map"]["data"], np.float32)


def by_form(client: httpx.Client, picture: bytes) -> np.ndarray:
    options = {"model": "shapes", "class_label": "star", "size": "96"}
    response = client.post(
        "/v1/explanations?as=npy", data=options, files={"input": ("x.png", picture)}
    )
    return np.asarray(np.load(io.BytesIO(response.content)))


def test_every_way_gives_the_same_map(
    client: httpx.Client, folder: Path, report: dict[str, Any], expected: np.ndarray
) -> None:
    picture = (folder / "picture.png").read_bytes()
    maps = {"JSON": by_json(client, picture), "form": by_form(client, picture)}
    for name in ("kserve-v1", "kserve-v2-pixels-json", "kserve-v2-pixels-binary"):
        maps[name] = np.load(folder / f"{name}.npy")
    for name in ("triton-json", "triton-binary"):
        maps[name] = np.load(folder / f"{name}.npy")
        assert maps[name].dtype == np.float32
    assert expected.shape == (96, 96)
    assert expected.max() > 0
    for name, found in maps.items():
        assert np.array_equal(found.astype(np.float32), expected), name


def test_numbers_that_are_ready_give_the_map_of_the_picture(
    client: httpx.Client, folder: Path, report: dict[str, Any]
) -> None:
    response = client.post(
        "/v1/explanations?model=shapes&class_label=star&size=feature&as=npy",
        content=(folder / "picture.png").read_bytes(),
        headers={"Content-Type": "image/png"},
    )
    of_picture = np.load(io.BytesIO(response.content))
    found = np.load(folder / "kserve-v1-ready.npy")
    assert found.shape == (16, 16)
    assert np.allclose(found, of_picture, atol=1e-3 * of_picture.max())


def test_every_way_gives_the_same_output(
    client: httpx.Client, folder: Path, report: dict[str, Any]
) -> None:
    raw = client.post(
        "/v1/models/shapes/predict?as=npy",
        content=(folder / "picture.png").read_bytes(),
        headers={"Content-Type": "image/png"},
    )
    of_picture = np.load(io.BytesIO(raw.content))
    assert np.array_equal(np.load(folder / "kserve-v1-predict.npy").astype("f4"), of_picture)
    ways = ("kserve-v2-infer-json", "kserve-v2-infer-binary", "triton-infer-json")
    ways += ("triton-infer-binary", "triton-infer-default", "triton-infer-async")
    outputs = [np.load(folder / f"{way}.npy") for way in ways]
    for way, output in zip(ways, outputs, strict=True):
        assert output.shape == (1, 8), way
        assert np.array_equal(output.astype(np.float32), outputs[0].astype(np.float32)), way
    assert np.allclose(outputs[0], of_picture, atol=1e-3 * np.abs(of_picture).max())


def test_the_python_of_the_guide_runs(report: dict[str, Any]) -> None:
    assert [report.get(f"guide {number}") for number in range(3)] == [[128, 128], [128, 128], None]


def test_the_curl_of_the_guide_runs(service: Service) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    command = block.replace("http://127.0.0.1:8000", service.url)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        check=True, capture_output=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    tensors = {one["name"]: one for one in json.loads(ran.stdout)["outputs"]}
    assert tensors["map"]["shape"] == [1, 16, 16]
    assert tensors["class_label"]["data"] == ["star"]


def test_tritons_client_reads_all_outputs(report: dict[str, Any], folder: Path) -> None:
    assert report["class json"] == report["class binary"] == [[6], ["star"], [0]]
    assert report["v2 label json"] == report["v2 label binary"] == ["star"]
    scores = [np.load(folder / f"triton-score-{form}.npy") for form in ("json", "binary")]
    assert scores[0] == scores[1]
    assert report["id json"] == report["id binary"] == "mine"


def test_health_and_metadata(report: dict[str, Any]) -> None:
    for name in (
        "v1 live",
        "v1 ready",
        "v2 live",
        "v2 server",
        "v2 ready",
        "live",
        "server",
        "ready",
    ):
        assert report[name] is True, name
    for name in ("v2 not ready", "v2 none", "other version"):
        assert report[name] is False, name
    assert report["v1 again"] is True
    assert report["load"] is report["unload"] is None
    assert report["metadata"]["inputs"][0]["shape"] == [-1, 3, SIZE, SIZE]
    assert report["metadata"]["outputs"][0]["shape"] == [-1, 8]
    assert "binary_tensor_data" in report["extensions"]
    states = {one["name"]: one["state"] for one in report["index"]}
    assert states["shapes"] == "READY"
    assert states["resnet50"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        (
            "v1 unknown",
            "HTTPStatusError",
            ["there is no model 'shap'; did you mean 'shapes'", "404"],
        ),
        ("v1 wrong", "HTTPStatusError", ["no class label 'stat'; did you mean 'star'", "422"]),
        (
            "v2 unknown",
            "HTTPStatusError",
            ["there is no model 'shap'; did you mean 'shapes'", "404"],
        ),
        ("v2 unavailable", "HTTPStatusError", ["HF_ENDPOINT", "503"]),
        ("load config", "InferenceServerException", ["[422]", "leave the parameters out"]),
        ("load unknown", "InferenceServerException", ["[404] there is no model 'shap'"]),
        ("unknown", "InferenceServerException", ["[404] there is no model 'shap'; did you mean"]),
        ("config", "InferenceServerException", ["[404] nothing is at /v2/models/shapes/config"]),
        (
            "wrong shape",
            "InferenceServerException",
            ["[400]", "FP32 of shape [1, 3, 2, 2] takes 48"],
        ),
        ("sequence", "InferenceServerException", ["[422]", "keeps a state"]),
        ("compressed", "InferenceServerException", ["[415]", "send it uncompressed"]),
    ],
)
def test_exceptions_of_the_clients_say_what_is_wrong(
    report: dict[str, Any], name: str, kind: str, words: list[str]
) -> None:
    found, text = report[name]
    assert found == kind
    for one in words:
        assert one in text
