"""Every reference map of the zoo, from the uploaded file to the array, over real HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from camserve.maps.conventions import present
from tests.service import Service
from tests.zoo import ZOO, arrays, cases, needs_zoo

pytestmark = needs_zoo


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def targets_of(case: dict[str, Any], row: int) -> dict[str, Any]:
    """The fields of a form that ask for the target of one input of a case."""
    target = case["target"]
    match target["kind"]:
        case "output":
            return {"reduction": "output", "params": json.dumps({"index": target["index"]})}
        case "segmentation":
            params: dict[str, Any] = {"class_index": target["class"]}
            if target["pixels"] != "mask":
                params["region"] = target["pixels"]
            return {"reduction": "segmentation", "params": json.dumps(params)}
    per_sample = target.get("index_per_sample")
    index = per_sample[row] if per_sample else target["index"]
    return {"class_index": index if isinstance(index, list) else [index]}


def mask_of(case: dict[str, Any], row: int) -> dict[str, bytes]:
    """The mask of a segmentation, as a file of the form."""
    target = case["target"]
    if target.get("pixels") != "mask":
        return {}
    from PIL import Image

    levels = np.asarray(Image.open(ZOO / target["mask_files"][row]))
    file = io.BytesIO()
    np.save(file, levels == target["mask_value"])
    return {"mask": file.getvalue()}


def explain(client: httpx.Client, case: dict[str, Any], row: int, **options: Any) -> dict[str, Any]:
    score = case["target"].get("score", "logit") or "logit"
    fields = {
        "model": case["model"],
        "method": case["method"],
        "feature_layer": case["layer"],
        "reduction_layer": "output" if score == "logit" else score,
        **targets_of(case, row),
        **options,
    }
    files = {"input": (ZOO / case["inputs"][row]).read_bytes(), **mask_of(case, row)}
    response = client.post("/v1/explanations", data=fields, files=files)
    assert response.status_code == 200, response.text
    return dict(response.json())


def signed_maps(client: httpx.Client, done: dict[str, Any]) -> list[np.ndarray]:
    maps = []
    for result in done["results"]:
        href = result["map"]["href"]
        response = client.get(href, params={"size": "feature", "convention": "captum"})
        assert response.status_code == 200, response.text
        maps.append(np.load(io.BytesIO(response.content)))
        assert list(maps[-1].shape) == result["map"]["shape"]
    return maps


def tolerance_of(case: dict[str, Any]) -> float:
    tolerance = case["tolerance"]
    # a saturated probability is beyond float32, but not for a softmax taken in float64
    return float((tolerance["rel_float32"] or 1e-4) * tolerance["scale"])


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case['id']}-{case['model']}")
def test_every_case(client: httpx.Client, case: dict[str, Any]) -> None:
    (presum,) = arrays(case, "presum")
    found = []
    for row in range(len(case["inputs"])):
        done = explain(client, case, row)
        found += signed_maps(client, done)
        assert {result["method"] for result in done["results"]} == {case["method"]}
    maps = np.stack(found).astype(float)
    if case.get("sign_free"):  # a singular vector has no sign of its own
        presum = presum * np.sign((presum * maps).sum())
    assert np.abs(maps - presum).max() <= tolerance_of(case)


def onnx_cases() -> list[Any]:
    """The first Grad-CAM of each model at its default layer; names differ in an ONNX file."""
    chosen = {}
    for case in cases():
        card = json.loads((ZOO / "models" / case["model"] / "card.json").read_text())
        if case["method"] == "gradcam" and case["layer"] == card["default_layer"]:
            chosen.setdefault(case["model"], case)
    return [pytest.param(case, id=model) for model, case in chosen.items()]


@pytest.mark.parametrize("case", onnx_cases())
def test_the_same_network_from_an_onnx_file(client: httpx.Client, case: dict[str, Any]) -> None:
    """To 1e-4, at the layer that the automatic choice finds in either."""
    name = f"{case['model']}-onnx"
    assert client.get(f"/v1/models/{name}").json()["state"] == "ready"
    chosen = client.get(f"/v1/models/{name}/layers").json()["layers"][0]
    assert chosen["rank"] == 1
    found = explain(client, case, 0, model=name, feature_layer=chosen["name"])
    plain = explain(client, case, 0)
    for other, one in zip(signed_maps(client, found), signed_maps(client, plain), strict=True):
        assert np.abs(other - one).max() <= 1e-4 * np.abs(one).max()


def test_maps_of_arrays_have_the_arrays_axes(client: httpx.Client) -> None:
    """A volume and a sequence, up-sampled to themselves, as the engine's maps are."""
    for model, shape in (("volumes-cnn3d", (32, 32, 32)), ("vowels-tcn", (19,))):
        case = next(
            case
            for case in cases()
            if case["model"] == model and case["method"] == "gradcam" and len(case["inputs"]) == 1
        )
        done = explain(client, case, 0, convention="pytorch-grad-cam")
        response = client.get(done["results"][0]["map"]["href"])
        values = np.load(io.BytesIO(response.content))
        recorded = np.load(ZOO / case["file"])["map"].reshape(values.shape)
        assert values.ndim == len(shape)
        assert np.abs(values - recorded).max() <= case["tolerance"]["map_abs_float32"]
        picture = client.get(done["results"][0]["overlay"]["href"])
        assert picture.headers["content-type"] == "image/png", picture.text


def test_names_of_the_card_and_the_region_of_a_point(client: httpx.Client) -> None:
    """`tilt` is the expression that the card says; a point is the box of one pixel."""
    digit = (ZOO / "digits" / "digit3_077_p36.0.png").read_bytes()
    scores = []
    for fields in ({"reduction": "tilt"}, {"expression": "x[0]"}, {"reduction": "output"}):
        response = client.post(
            "/v1/explanations", data={"model": "digits-angle", **fields}, files={"input": digit}
        )
        target = response.json()["results"][0]["target"]
        scores.append(target["score"])
    assert scores[0] == scores[1] == pytest.approx(scores[2], rel=1e-6)
    assert target["expression"] is None
    scene = (ZOO / "scenes" / "scene_04.png").read_bytes()
    maps = []
    for region in ({"point": [40, 52]}, {"box": [40, 52, 41, 53]}):
        params = json.dumps({"class_index": 1, "region": region})
        response = client.post(
            "/v1/explanations",
            data={"model": "shapes-unet", "reduction": "segmentation", "params": params},
            files={"input": scene},
        )
        maps.append(signed_maps(client, response.json())[0])
    assert np.array_equal(*maps)
    at_pixel = client.post(
        "/v1/explanations",
        data={"model": "shapes-unet", "expression": "x[1, 52, 40]"},
        files={"input": scene},
    ).json()
    (expected,) = signed_maps(client, at_pixel)
    assert np.abs(maps[0] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_several_layers_are_fused(client: httpx.Client) -> None:
    """Two layers in one request: their maps, each up-sampled, averaged or the greater of them."""
    case = next(case for case in cases() if case["id"] == "001")
    from camserve.maps.sampler import Sampler

    single = {}
    for layer in ("layer2", "layer3"):
        done = explain(client, case, 0, feature_layer=layer)
        single[layer] = signed_maps(client, done)[0]
    done = explain(client, case, 0, feature_layer=["layer3", "layer2"], convention="paper")
    assert done["results"][0]["feature_layer"] == ["layer3", "layer2"]
    for fusion in ("mean", "max"):
        response = client.get(done["results"][0]["map"]["href"], params={"fusion": fusion})
        values = np.load(io.BytesIO(response.content))
        layers = [single["layer3"], single["layer2"]]
        expected = present(layers, "paper", Sampler.whole((32, 32)), fusion=fusion)
        assert np.abs(values - expected).max() <= 1e-5
