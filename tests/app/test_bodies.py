"""The three body forms: one meaning, and the same suspicion."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest

from camserve.errors import (
    EmptyBody,
    InvalidRequest,
    MalformedRequest,
    TooLarge,
    UnreadableImage,
    UnsupportedMediaType,
)
from camserve.settings import Settings
from tests.app.arrays import npy
from tests.app.front import Front, png, problem
from tests.app.requests import read, read_stream

pytestmark = pytest.mark.anyio

PICTURE = png()
B64 = base64.b64encode(PICTURE).decode()
MEANINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"class_index": "1,3"}, {"targets": [{"class_index": 1}, {"class_index": 3}]}),
    ({"class_label": "Crane"}, {"targets": [{"class_label": "Crane"}]}),
    ({"top": "2"}, {"targets": [{"top": 2}]}),
    (
        {"reduction": "class_score", "params": '{"class_index": 2}'},
        {"targets": [{"reduction": "class_score", "params": {"class_index": 2}}]},
    ),
    (
        {"convention": "paper", "upsampling": "nearest", "feature_layer": "features"},
        {"convention": "paper", "upsampling": "nearest", "feature_layer": "features"},
    ),
    (
        {"alpha": "0.5", "colormap": "jet", "color_bar": "true", "size": "640x480", "map": "list"},
        {
            "output": {
                "alpha": 0.5, "colormap": "jet", "color_bar": True, "size": "640x480", "map": "list"
            }
        },
    ),
    ({"priority": "bulk", "deadline_ms": "5000"}, {"priority": "bulk", "deadline_ms": 5000}),
]  # fmt: skip


@pytest.mark.parametrize(("flat", "nested"), MEANINGS)
async def test_three_bodies_are_one_request(flat: dict[str, str], nested: dict[str, Any]) -> None:
    document = {"model": "toy", "inputs": [{"image": {"base64": B64}}], **nested}
    fields = {"model": "toy"} | flat
    as_json = await read(json=document)
    as_form = await read(data=fields, files={"input": PICTURE})
    as_raw = await read(content=PICTURE, params=fields, headers={"Content-Type": "image/png"})
    without_inputs = as_json[0].model_copy(update={"inputs": ()})
    assert without_inputs == as_form[0] == as_raw[0]
    assert as_json[1][0].data == as_form[1][0].data == as_raw[1][0].data == PICTURE


async def test_three_bodies_are_one_job(front: Front) -> None:
    document = {
        "model": "toy",
        "inputs": [{"image": {"base64": f"data:image/png;base64,{B64}"}}],
        "targets": [{"class_index": 1}],
        "output": {"alpha": 0.5},
    }
    fields = {"model": "toy", "class_index": "1", "alpha": "0.5"}
    url = "/v1/explanations"
    asked = [
        front.client.post(url, json=document),
        front.client.post(url, data=fields, files={"input": PICTURE}),
        front.post(PICTURE, params=fields),
    ]
    jobs, tensors = [], []
    for one in asked:
        response, job, inputs = await front.done(one)
        assert response.status_code == 200, response.text
        named = job.inputs[0].model_copy(update={"name": None})  # a form's file has a name
        jobs.append(job.model_copy(update={"request_id": None, "inputs": (named,)}))
        tensors.append(inputs["input.0"])
    assert jobs[0] == jobs[1] == jobs[2]
    assert tensors[0].tobytes() == tensors[1].tobytes() == tensors[2].tobytes()


async def test_a_body_without_a_type_is_a_raw_file() -> None:
    _, uploads = await read_stream({}, [PICTURE], "model=toy&as=png")
    assert uploads[0].data == PICTURE


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/json", ""])
async def test_an_empty_body(content_type: str) -> None:
    with pytest.raises(EmptyBody, match="send an image, a form or a JSON document"):
        await read_stream({"Content-Type": content_type}, [], "")


async def test_an_empty_form() -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(EmptyBody):
        await read_stream(headers, [b"--x--\r\n"])
    with pytest.raises(MalformedRequest):
        await read_stream(headers, [])


async def test_other_content_types_are_refused_before_the_body_is_read() -> None:
    def unread() -> Any:
        pytest.fail("the body was read")
        yield b""

    for media_type in ("text/plain", "application/xml", "image/svg+xml"):
        with pytest.raises(UnsupportedMediaType, match="image/png") as caught:
            await read_stream({"Content-Type": media_type}, unread())
        assert "application/json" in caught.value.extensions["supported"]
    with pytest.raises(UnsupportedMediaType, match="--data-binary"):
        await read_stream({"Content-Type": "application/x-www-form-urlencoded"}, unread())
    with pytest.raises(UnsupportedMediaType, match="uncompressed"):
        await read_stream({"Content-Encoding": "gzip"}, unread())


SMALL = Settings(redis_url="redis://unused", max_body_mb=0.01)


@pytest.mark.parametrize(
    "content_type", ["image/png", "application/json", "multipart/form-data; boundary=x"]
)
async def test_a_body_too_large_by_its_own_word_is_never_read(content_type: str) -> None:
    def unread() -> Any:
        pytest.fail("the body was read")
        yield b""

    headers = {"Content-Type": content_type, "Content-Length": "10001"}
    with pytest.raises(TooLarge, match=r"0\.01 MB") as caught:
        await read_stream(headers, unread(), settings=SMALL)
    assert caught.value.extensions["limit"] == 10_000


@pytest.mark.parametrize("length", [None, "5", "\xb2"])
async def test_a_body_too_large_is_cut_off_early(length: str | None) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 4000
            yield b"x" * 4000

    headers = {"Content-Type": "image/png"} | ({"Content-Length": length} if length else {})
    with pytest.raises(TooLarge):
        await read_stream(headers, endless(), settings=SMALL)
    assert taken == 12_000


async def test_a_body_of_just_the_limit_passes() -> None:
    headers = {"Content-Type": "image/png", "Content-Length": "10000"}
    _, uploads = await read_stream(headers, [b"x" * 10_000], "model=toy", settings=SMALL)
    assert len(uploads[0].data) == 10_000


async def test_options_in_the_query_of_a_form_or_document_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="options go into the body") as caught:
        await read(json={"model": "toy"}, params={"as": "png", "alpha": "1"})
    assert caught.value.extensions["field"] == "alpha"
    with pytest.raises(InvalidRequest, match="options go into the body"):
        await read(data={"model": "toy"}, files={"input": PICTURE}, params={"top": "1"})


@pytest.mark.parametrize(
    "body",
    [
        {"json": {"model": "toy"}},
        {"data": {"model": "toy"}, "files": {"input": PICTURE}},
        {"content": PICTURE},
    ],
)
async def test_a_form_of_the_answer_is_given_once(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="as is given 2 times") as caught:
        await read(params={"as": ["png", "npy"]}, **body)
    assert caught.value.extensions["field"] == "as"


async def test_an_archive_of_arrays_is_told_from_an_array(front: Front) -> None:
    file = io.BytesIO()
    np.savez(file, x=np.zeros(3))
    for body in (
        {"content": file.getvalue(), "params": {"model": "toy"}},
        {"data": {"model": "toy"}, "files": {"input": ("x.npz", file.getvalue())}},
    ):
        with pytest.raises(UnreadableImage, match=r"a \.npy file, not \.npz") as caught:
            await read(**body)
        assert caught.value.extensions["input"] == 0
    response = await front.post(file.getvalue())
    assert ".npz" in problem(response, 415, "unreadable_image")["detail"]
    tensor = {"npy_base64": base64.b64encode(file.getvalue()).decode()}
    with pytest.raises(InvalidRequest, match=r"a \.npz is none"):
        await read(json={"model": "toy", "inputs": [{"tensor": tensor}]})


async def test_a_tensor_in_every_form() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    tensor = {"npy_base64": base64.b64encode(npy(array)).decode()}
    _, (inline,) = await read(json={"model": "toy", "inputs": [{"tensor": tensor}]})
    _, (raw,) = await read(
        content=npy(array), params={"model": "toy"}, headers={"Content-Type": "application/x-npy"}
    )
    _, (file,) = await read(data={"model": "toy"}, files={"input": ("x.npy", npy(array))})
    assert inline.data == raw.data == file.data
    assert inline.is_array
    assert raw.is_array
    lists = {"model": "toy", "inputs": [{"tensor": {"data": array.tolist()}}]}
    asked, (nested,) = await read(json=lists)
    np.testing.assert_array_equal(nested.data, array)
    assert asked.inputs == ()  # or a million numbers would stay in memory as Python's


@pytest.mark.parametrize("inputs", [31, 32])
async def test_as_many_inputs_and_targets_as_are_allowed(inputs: int) -> None:
    files = [("input", PICTURE)] * inputs
    asked, uploads = await read(data={"model": "toy", "class_index": ["0"] * 16}, files=files)
    assert (len(uploads), len(asked.targets)) == (inputs, 16)


async def test_too_many_inputs_or_targets_is_413() -> None:
    for inputs in (33, 34, 200):
        with pytest.raises(TooLarge, match="32") as caught:
            await read(data={"model": "toy"}, files=[("input", PICTURE)] * inputs)
        assert caught.value.extensions["limit"] == 32
        with pytest.raises(TooLarge, match="32"):
            await read(json={"model": "toy", "inputs": [{"image": {"base64": B64}}] * inputs})
    inline = json.dumps({"inputs": [{"image": {"base64": B64}}] * 20})
    with pytest.raises(TooLarge, match="40 inputs"):
        await read(data={"model": "toy", "request": inline}, files=[("input", PICTURE)] * 20)
    for targets in ({"class_index": ["1"] * 17}, {"top": "17"}, {"class_label": ["a"] * 17}):
        with pytest.raises(TooLarge, match="17 targets"):
            await read(data={"model": "toy", **targets}, files={"input": PICTURE})
    listed = [{"class_index": list(range(15))}, {"top": 2}]
    with pytest.raises(TooLarge, match="17 targets"):
        await read(json={"model": "toy", "inputs": [{"image": {"base64": B64}}], "targets": listed})
