"""The client against a real service: what it returns is what the API answers."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from camserve.client import (
    AsyncClient,
    Client,
    Conflict,
    ExplanationFailed,
    InvalidRequest,
    NotFound,
    Refused,
    TimedOut,
    TooLarge,
    Unavailable,
)
from camserve.contracts.states import State
from camserve.contracts.targets import ExpressionTarget
from tests.service import ROOT, Service

SAMPLE = ROOT / "models" / "shapes" / "samples" / "heart-star.png"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def posted(http: httpx.Client, data: bytes, **fields: Any) -> np.ndarray:
    """The map, by a form and without the client."""
    answer = http.post(
        "/v1/explanations",
        data={"model": "shapes"} | fields,
        files={"input": data},
        headers={"Accept": "application/x-npy"},
    )
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def test_the_map_and_the_overlay_are_those_of_the_api(client: Client, http: httpx.Client) -> None:
    explanation = client.explain(SAMPLE, model="shapes", class_label=["heart", "star"])
    assert explanation.state is State.SUCCEEDED
    assert [one.target.class_label for one in explanation.results] == ["heart", "star"]
    star = explanation.results[1]
    assert star.feature_layer == "stage3"
    assert star.score == pytest.approx(star.summary.target.score)
    values = star.map()
    assert (values.dtype, values.shape) == (np.float32, (384, 384))
    assert np.array_equal(values, posted(http, SAMPLE.read_bytes(), class_label="star"))
    picture = star.overlay("webp", view="heatmap", size=128)
    direct = http.get(
        star.summary.overlay.href, params={"as": "webp", "view": "heatmap", "size": "128"}
    )
    assert picture == direct.content
    assert picture.media_type == "image/webp"
    assert explanation.document.model_dump(mode="json") == {
        **http.get(explanation.document.href).json(),
        "created_at": explanation.document.model_dump(mode="json")["created_at"],
        "started_at": explanation.document.model_dump(mode="json")["started_at"],
        "completed_at": explanation.document.model_dump(mode="json")["completed_at"],
        "deadline_at": explanation.document.model_dump(mode="json")["deadline_at"],
    }


def test_all_maps_at_once(client: Client) -> None:
    explanation = client.explain(SAMPLE, model="shapes", top=2)
    stack = explanation.maps()
    assert stack.shape == (2, 384, 384)
    for number, one in enumerate(explanation.results):
        assert np.array_equal(stack[number], one.map())
        assert np.array_equal(stack[number], np.load(io.BytesIO(one.npy())))
    with zipfile.ZipFile(io.BytesIO(explanation.archive())) as archive:
        assert np.array_equal(np.load(io.BytesIO(archive.read("maps/1.npy"))), stack[1])


def test_a_map_in_another_form(client: Client) -> None:
    one = client.explain(SAMPLE, model="shapes", convention="captum").results[0]
    signed = one.map(size="feature")
    assert signed.shape == one.signed.shape
    assert signed.min() == pytest.approx(one.signed.min)
    assert one.map(size="96x48", upsampling="nearest").shape == (48, 96)
    assert one.map(dtype="float16").dtype == np.float16


def test_a_picture_is_saved_and_shown(client: Client, tmp_path: Path) -> None:
    picture = client.explain(SAMPLE, model="shapes").results[0].overlay()
    saved = picture.save(tmp_path / "overlay.png")
    with Image.open(saved) as image:
        assert image.size == (384, 384)
    assert picture._repr_mimebundle_() == {"image/png": picture}


def test_every_kind_of_input_is_the_same_picture(client: Client, http: httpx.Client) -> None:
    expected = posted(http, SAMPLE.read_bytes())
    with SAMPLE.open("rb") as file, Image.open(SAMPLE) as image:
        kinds: list[Any] = [SAMPLE, str(SAMPLE), SAMPLE.read_bytes(), file, image]
        results = [client.explain(one, model="shapes").results[0] for one in kinds]
        several = client.explain([SAMPLE, image], model="shapes").results
    for one in results:
        assert np.array_equal(one.map(), expected), one
    names = [one.input_name for one in results]
    assert names == [SAMPLE.name, SAMPLE.name, "input-0", SAMPLE.name, SAMPLE.name]
    assert [one.input for one in several] == [0, 1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "CMYK"])
def test_a_picture_in_memory_is_what_its_file_is(client: Client, kind: str) -> None:
    with Image.open(SAMPLE) as opened:
        picture = opened.convert("RGB").resize((120, 80))
    turned = Image.Exif()
    turned[0x0112] = 6
    file = io.BytesIO()
    if kind == "CMYK":
        picture.convert("CMYK").save(file, "TIFF")
    else:
        picture.save(file, kind, exif=turned)
    stored = client.explain(file.getvalue(), model="shapes", class_index=2).results[0]
    with Image.open(file) as image:
        memory = client.explain(image, model="shapes", class_index=2).results[0]
    assert memory.score == pytest.approx(stored.score, rel=1e-6)
    # Pillow turns a TIFF while it reads it, and leaves the others to who shows them
    expected = np.rot90(stored.map(), -1) if kind == "TIFF" else stored.map()
    assert np.allclose(memory.map(), expected, atol=1e-5)


def test_an_array_goes_to_the_model_as_it_is(client: Client, http: httpx.Client) -> None:
    values = np.random.default_rng(1).standard_normal((3, 128, 128)).astype(np.float32)
    file = io.BytesIO()
    np.save(file, values)
    ours = client.explain(values, model="shapes", class_index=np.int64(2)).results[0]
    assert np.array_equal(ours.map(), posted(http, file.getvalue(), class_index="2"))


def test_targets_in_every_way(client: Client) -> None:
    named = client.explain(
        SAMPLE,
        model="shapes",
        class_index=np.array([2, 3]),
        class_label="star",
        top=1,
        reduction="class_margin",
        params={"class_index": 3},
        expression="x[0] - x[1]",
    )
    listed = client.explain(
        SAMPLE,
        model="shapes",
        targets=[
            {"class_index": [2, 3]},
            {"class_label": "star"},
            {"top": 1},
            {"reduction": "class_margin", "params": {"class_index": 3}},
            ExpressionTarget(expression="x[0] - x[1]"),
        ],
    )
    assert [r.target for r in named.results] == [r.target for r in listed.results]
    assert len(named.results) == 6
    with pytest.raises(TypeError, match="targets and top are both given"):
        client.explain(SAMPLE, model="shapes", top=1, targets=[{"top": 2}])
    with pytest.raises(TypeError, match="params go with a reduction"):
        client.explain(SAMPLE, model="shapes", params={"class_index": 3})


def test_options_reach_the_service(client: Client) -> None:
    one = client.explain(
        SAMPLE,
        model="shapes",
        method="layercam",
        feature_layer=["stage2", "stage3"],
        reduction_layer="softmax",
        convention="paper",
        evaluate={"metrics": ["deletion"], "steps": 2},
        view="contour",
        color_bar=True,
        size=200,
        map="list",
        alpha=None,
    ).results[0]
    assert one.method == "layercam"
    assert one.feature_layer == ("stage2", "stage3")
    assert (one.reduction_layer, one.convention) == ("softmax", "paper")
    assert [metric.metric for metric in one.evaluation] == ["deletion"]
    assert one.summary.overlay.href.endswith("?view=contour&color_bar=true&size=200")
    assert np.allclose(one.signed.data, one.map(), atol=1e-6)


def test_models_and_layers(client: Client) -> None:
    (shapes,) = [model for model in client.models() if model.name == "shapes"]
    assert shapes.state == "ready"
    assert client.model("shapes").classes == 8
    assert client.model("shapes").ready
    with contextlib.suppress(Unavailable):
        client.explain(SAMPLE, model="resnet50")  # whose weights are out of reach
    away = client.model("resnet50")  # of which the service answers 503
    assert not away.ready
    assert away.problem is not None
    layers = client.layers("shapes")
    assert layers.feature_layer == "stage3"
    assert layers.layers[0].rank == 1
    with pytest.raises(NotFound, match=r"no model 'shape\?s #'; did you mean 'shapes'"):
        client.layers("shape?s #")


def test_submit_wait_refresh_and_cancel(client: Client) -> None:
    submitted = client.submit(SAMPLE, model="shapes")
    found = client.explanation(submitted.id)
    assert found.wait().state is State.SUCCEEDED
    assert submitted.refresh().results[0].score == found.results[0].score
    assert submitted.cancel().state is State.SUCCEEDED  # too late: nothing changes
    with pytest.raises(NotFound, match="outlived its time to live"):
        client.explanation("01M8C3A8HP2CA5PYRXAVVD60F1-shapes")


def test_recent_explanations_page_by_page(client: Client) -> None:
    made = [client.explain(SAMPLE, model="shapes").id for _ in range(23)]  # more than one page
    listed = itertools.islice(client.explanations(model="shapes", state=["succeeded"]), 23)
    assert [one.id for one in listed] == made[::-1]
    assert {one.state for one in client.explanations(state=State.FAILED)} <= {State.FAILED}
    with pytest.raises(NotFound, match="did you mean 'shapes'"):
        next(client.explanations(model="shape"))


def test_an_explanation_is_followed_to_its_end(client: Client) -> None:
    explanation = client.submit(
        SAMPLE, model="shapes", evaluate={"metrics": ["deletion"], "steps": 50}
    )
    told = [(one.state, one.queue_position, one.progress) for one in explanation.follow()]
    assert told[-1] == (State.SUCCEEDED, None, None)
    states = [state for state, _, _ in told]
    assert states[-1] is State.SUCCEEDED
    assert State.SUCCEEDED not in states[:-1]
    assert explanation.results[0].evaluation
    assert [one.state for one in explanation.follow()] == [State.SUCCEEDED]


def test_predictions(client: Client, http: httpx.Client) -> None:
    files = [("input", SAMPLE.read_bytes())]
    answered = http.post("/v1/models/shapes/predict", files=files, data={"top": "3"}).json()
    ours = client.predict(SAMPLE, model="shapes", top=3)
    found = [one.class_label for one in ours.results[0].predictions]
    assert found == [one["class_label"] for one in answered["results"][0]["predictions"]]
    assert len(found) == 3
    assert ours.results[0].input_name == SAMPLE.name
    outputs = client.outputs([SAMPLE, SAMPLE], model="shapes")
    assert outputs.shape == (2, 8)
    best = ours.results[0].predictions[0]
    assert outputs[0].argmax() == best.class_index
    assert outputs[0].max() == pytest.approx(best.score, rel=1e-5)
    with pytest.raises(NotFound, match="did you mean 'shapes'"):
        client.predict(SAMPLE, model="shapess")
    with pytest.raises(InvalidRequest, match="top"):
        client.predict(SAMPLE, model="shapes", top=0)


def test_urls_are_fetched_by_the_service(client: Client) -> None:
    url = "https://images.example.com/cat.jpg"
    with pytest.raises(Refused, match="CAMSERVE_FETCH_HOSTS"):  # which it does not do by default
        client.explain(url, model="shapes", class_label="star")
    with pytest.raises(Refused, match="CAMSERVE_FETCH_HOSTS"):
        client.predict([url, url], model="shapes")
    with pytest.raises(TypeError, match="URLs and files need calls of their own"):
        client.explain([url, SAMPLE], model="shapes")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"class_index": 8}, InvalidRequest, r"the model has 8 classes, 0 to 7"),
        ({"feature_layer": "stage9"}, NotFound, r"no layer 'stage9'; did you mean"),
        ({"feature_layer": "qqq"}, NotFound, r"no layer 'qqq'; possible are stage3, .*, …"),
        ({"colormap": "jett", "alpha": 3}, InvalidRequest, r"colormap: .*; output.alpha: .* 1"),
        ({"of_tomorrow": 3}, InvalidRequest, r"unknown field 'of_tomorrow'"),
        ({"size": "9999x9999", "map": "npy_base64"}, TooLarge, r"megapixels|numbers"),
        ({"feature_layer": "head"}, ExplanationFailed, r"."),
    ],
)
def test_refusals(
    client: Client, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        client.explain(SAMPLE, model="shapes", **options)
    error = caught.value
    assert error.href.endswith(f"/problems/{error.code}")  # type: ignore[attr-defined]
    assert error.request_id  # type: ignore[attr-defined]


def test_an_idempotency_key_of_another_request(client: Client) -> None:
    client.explain(SAMPLE, model="shapes", idempotency_key="mine")
    with pytest.raises(Conflict):
        client.explain(SAMPLE, model="shapes", top=2, idempotency_key="mine")


def test_what_is_no_input(client: Client, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not int"):
        client.explain(3, model="shapes")
    with pytest.raises(FileNotFoundError):
        client.explain(tmp_path / "nothing.png", model="shapes")
    text = tmp_path / "text.txt"
    text.write_text("x")
    with text.open() as file, pytest.raises(TypeError, match="mode 'rb'"):
        client.explain(file, model="shapes")
    with pytest.raises(ValueError, match="allow_pickle"):
        client.explain(np.array([object()]), model="shapes")
    with pytest.raises(InvalidRequest, match="not a picture"):
        client.explain(text, model="shapes")


def test_a_file_name_that_is_not_unicode(client: Client, tmp_path: Path) -> None:
    path = tmp_path / b"caf\xe9.png".decode(errors="surrogateescape")
    path.write_bytes(SAMPLE.read_bytes())
    assert client.explain(path, model="shapes").results[0].input_name == "caf?.png"


def test_an_explanation_that_is_not_finished_in_time(service: Service) -> None:
    with Client(service.url) as client, pytest.raises(TimedOut) as caught:
        client.explain(
            SAMPLE,
            model="shapes",
            timeout_s=0.3,
            evaluate={"metrics": ["deletion", "insertion"], "steps": 200},
        )
    assert caught.value.explanation_id
    with Client(service.url) as client:
        assert client.explanation(caught.value.explanation_id).wait().is_finished


@pytest.mark.anyio
async def test_the_asynchronous_client(service: Service, client: Client, tmp_path: Path) -> None:
    expected = client.explain(SAMPLE, model="shapes").results[0]
    async with AsyncClient(service.url) as asynchronous:
        submitted = await asynchronous.submit(SAMPLE, model="shapes")
        await submitted.wait()
        (one,) = submitted.results
        assert np.array_equal(await one.map(), expected.map())
        assert await one.overlay() == expected.overlay()
        assert await one.npy() == expected.npy()
        assert np.array_equal(await submitted.maps(), expected.map())
        assert (await submitted.archive()).startswith(b"PK")
        assert (await submitted.refresh()).document == submitted.document
        assert (await submitted.cancel()).state is State.SUCCEEDED
        assert (await asynchronous.explanation(submitted.id)).is_finished
        assert len(await asynchronous.models()) == len(client.models())
        assert (await asynchronous.model("shapes")).classes == 8
        assert (await asynchronous.layers("shapes")).feature_layer == "stage3"
        listed = [one.id async for one in asynchronous.explanations(model="shapes")]
        assert submitted.id in listed
        followed = [one.state async for one in submitted.follow()]
        assert followed == [State.SUCCEEDED]
        predicted = await asynchronous.predict(SAMPLE, model="shapes", top=1)
        assert predicted.results == client.predict(SAMPLE, model="shapes", top=1).results
        assert (await asynchronous.outputs(SAMPLE, model="shapes")).shape == (1, 8)
        with pytest.raises(InvalidRequest, match="out of range"):
            await asynchronous.explain(SAMPLE, model="shapes", class_index=8)


def test_json_answers_are_those_of_the_form(client: Client, http: httpx.Client) -> None:
    explanation = client.explain(SAMPLE, model="shapes", class_index=3)
    again = http.get(f"/v1/explanations/{explanation.id}").json()
    ours = json.loads(explanation.document.model_dump_json())
    assert ours["results"] == again["results"]
