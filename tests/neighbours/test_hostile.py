"""Headers and heads that lie: a 4xx in the neighbours' form, before anything is believed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from app.neighbours import v1_instances, v2_requests
from tests.app.front import Front, png, running_front
from tests.neighbours.calls import EXPLAIN_V2, HEADER, b64, error, framed, joined, tensor

pytestmark = pytest.mark.anyio

READY = np.zeros((1, 3, 32, 32), np.float32)
HEAD = tensor(READY, binary=True)
DATA = READY.tobytes()
TEXT = json.dumps({"inputs": [HEAD]}).encode()


def post(front: Front, head: Any, *parts: bytes, **others: Any) -> Any:
    body, headers = framed({"inputs": [head]} | others, *parts)
    return front.client.post(EXPLAIN_V2, content=body, headers=headers)


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "1e3",
        "0x10",
        "",
        " ",
        "many",
        "12, 12",
        "٣",
        "9" * 400,
        "99999999999999999999",
        "1" * 18,
        "1.5",
        "+5",
    ],
)
async def test_a_header_that_is_no_length(front: Front, value: str) -> None:
    response = await front.client.post(
        EXPLAIN_V2, content=TEXT + DATA, headers={HEADER: value.encode()}
    )
    assert HEADER in error(response, 400, "malformed_request")["error"]


@pytest.mark.parametrize(
    "value", ["0", "1", str(len(TEXT) - 1), str(len(TEXT) + 1), str(len(TEXT + DATA))]
)
async def test_a_header_that_points_elsewhere(front: Front, value: str) -> None:
    response = await front.client.post(EXPLAIN_V2, content=TEXT + DATA, headers={HEADER: value})
    error(response, 400, "malformed_request")


async def test_a_header_that_exceeds_a_body_of_json_alone(front: Front) -> None:
    text = json.dumps({"inputs": [tensor(READY)]}).encode()
    headers = {HEADER: str(len(text) + 1)}
    response = await front.client.post(EXPLAIN_V2, content=text, headers=headers)
    error(response, 400, "malformed_request")


async def test_a_header_that_comes_twice(front: Front) -> None:
    headers = [(HEADER, str(len(TEXT))), (HEADER, str(len(TEXT)))]
    response = await front.client.post(EXPLAIN_V2, content=TEXT + DATA, headers=headers)
    error(response, 400, "malformed_request")


async def test_a_header_that_is_missing(front: Front) -> None:
    error(await front.client.post(EXPLAIN_V2, content=TEXT + DATA), 400, "malformed_request")
    document = error(await front.client.post(EXPLAIN_V2, content=TEXT), 400, "malformed_request")
    assert HEADER in document["error"]


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1, 1, 2**63])
async def test_a_size_that_does_not_add_up(front: Front, size: int) -> None:
    head = HEAD | {"parameters": {"binary_data_size": size}}
    error(await post(front, head, DATA), 400, "malformed_request")


@pytest.mark.parametrize("size", [0, -1, 1.5, 10**30, True, "12288", None, [1], {}])
async def test_a_size_that_is_none(front: Front, size: Any) -> None:
    error(
        await post(front, HEAD | {"parameters": {"binary_data_size": size}}, DATA),
        422,
        "invalid_request",
    )


async def test_bytes_that_belong_to_nobody(front: Front) -> None:
    error(await post(front, HEAD, DATA, b"more"), 400, "malformed_request")
    error(await post(front, tensor(READY), b"more"), 400, "malformed_request")


@pytest.mark.parametrize(
    "shape",
    [
        [], [0, 3, 32, 32], [-1, 3, 32, 32], [1.0, 3, 32, 32], [True, 3072], ["1", 3072],
        "1x3", None, {}, [1] * 9, [2**31], [2**63, 2**63, 2**63], [2**40, 2**24], [10**30, 1],
    ],
)  # fmt: skip
@pytest.mark.parametrize("binary", [False, True])
async def test_a_shape_that_is_none(front: Front, shape: Any, binary: bool) -> None:
    head = (HEAD if binary else tensor(READY)) | {"shape": shape}
    error(await post(front, head, *([DATA] if binary else [])), 422, "invalid_request")


@pytest.mark.parametrize(
    ("shape", "as_bytes", "listed"),
    [
        ([33, 1], (413, "too_large"), (413, "too_large")),
        ([2**31 - 1, 2**31 - 1], (413, "too_large"), (413, "too_large")),
        ([1, 2**31 - 1, 2**31 - 1], (400, "malformed_request"), (422, "invalid_request")),
        ([1] + [2**31 - 1] * 7, (400, "malformed_request"), (422, "invalid_request")),
        ([1, 3, 32, 31], (400, "malformed_request"), (422, "invalid_request")),
        ([1, 3, 1024], (422, "invalid_input"), (422, "invalid_input")),
        ([3, 1, 32, 32], (422, "invalid_input"), (422, "invalid_input")),
    ],
)
async def test_a_shape_that_is_not_the_data(
    front: Front, shape: list[int], as_bytes: tuple[int, str], listed: tuple[int, str]
) -> None:
    error(await post(front, HEAD | {"shape": shape}, DATA), *as_bytes)
    error(await post(front, tensor(READY) | {"shape": shape}), *listed)


@pytest.mark.parametrize(
    "data",
    [
        [],
        [[]],
        [[[1]]],
        [1, [2]],
        [[1], 2],
        "text",
        5,
        {},
        None,
        [None],
        ["1"],
        [True],
        [{}],
        [[1, 2], [3]],
        [float("1e999")],
    ],
)
async def test_data_of_another_nesting(front: Front, data: Any) -> None:
    head = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": data}
    content = json.dumps({"inputs": [head]}).replace("Infinity", "1e999")
    response = await front.client.post(EXPLAIN_V2, content=content)
    assert response.status_code in {400, 422}, response.text
    error(response, response.status_code, response.json()["code"])


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT8", [256]), ("UINT8", [-1]), ("INT8", [128]), ("INT8", [1.5]),
        ("INT64", [2**63]), ("UINT64", [-1]), ("BOOL", [1]), ("FP32", [False]), ("BYTES", [5]),
        ("BYTES", ["?"]), ("BYTES", [""]), ("FP32", ["QQ=="]), ("FP32", [1e39]),
        ("FP16", [70000.0]), ("BF16", [1]),
    ],
)  # fmt: skip
async def test_values_that_the_datatype_has_not(
    front: Front, datatype: str, data: list[Any]
) -> None:
    head = {"name": "x", "shape": [1, 1], "datatype": datatype, "data": data}
    response = await post(front, head)
    error(response, 422, response.json()["code"])


@pytest.mark.parametrize("datatype", ["FP8", "fp32", "STRING", "", 5, None, ["FP32"]])
async def test_datatypes_that_there_are_not(front: Front, datatype: Any) -> None:
    error(await post(front, HEAD | {"datatype": datatype}, DATA), 422, "invalid_request")


@pytest.mark.parametrize("length", [0, 2, 2**32 - 1])
async def test_elements_whose_lengths_lie(front: Front, length: int) -> None:
    data = length.to_bytes(4, "little") + b"x"
    head = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    response = await post(front, head, data)
    assert response.status_code in {400, 422}
    error(response, response.status_code, response.json()["code"])


async def test_files_are_looked_at_like_any_upload(front: Front) -> None:
    for file, status, code in (
        (b"GIF89a", 422, "corrupt_image"),
        (b"PK\x03\x04....", 415, "unreadable_image"),
        (b"text", 415, "unreadable_image"),
        (b"\x93NUMPY\x01\x00", 422, "invalid_input"),
    ):
        head = {"name": "x", "shape": [1], "datatype": "BYTES", "data": [b64(file)]}
        error(await post(front, head), status, code)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"inputs": []}, "inputs: needs at least 1"),
        ({"inputs": None}, "inputs: must be a list"),
        ({"inputs": [HEAD, HEAD]}, "two of this name"),
        ({"inputs": [5]}, "inputs.0: must be an object"),
        ({"inputs": [{"name": "x"}]}, "is required"),
        ({"inputs": [HEAD | {"data": [0]}]}, "exactly one of data"),
        ({"inputs": [{k: v for k, v in HEAD.items() if k != "parameters"}]}, "exactly one of data"),
        ({"inputs": [HEAD | {"extra": 1}]}, "extra"),
        ({"inputs": [HEAD | {"parameters": {"shared_memory_region": "r"}}]}, "no shared memory"),
        ({"inputs": [HEAD | {"parameters": {"what": 1}}]}, "unknown parameter 'what'"),
        ({"outputs": [{"name": "maps"}]}, "there is no output 'maps'"),
        ({"outputs": [{"name": "map"}, {"name": "map"}]}, "two of this name"),
        ({"outputs": [{"name": "map", "parameters": {"binary_data": 1}}]}, "true or false"),
        ({"outputs": [{"name": "map", "parameters": {"classification": 3}}]}, "'classification'"),
        ({"outputs": [{"name": "map"}] * 65}, "outputs: takes at most 64"),
        ({"parameters": {"binary_data_output": "yes"}}, "true or false"),
        ({"parameters": {"sequence_id": 5}}, "no model here keeps a state"),
        ({"parameters": {"timeout": -5}}, "microseconds"),
        ({"parameters": {"timeout": True}}, "microseconds"),
        ({"parameters": {"priority": "first"}}, "priority"),
        ({"parameters": {"map": "list"}}, "parameters.map"),
        ({"parameters": {"output": {"map": "list"}}}, "parameters.map"),
        ({"parameters": {"format": "QQ"}}, "format"),
        ({"parameters": []}, "parameters: must be an object"),
        ({"parameters": dict.fromkeys(map(str, range(100)), 1)}, "members"),
        ({"id": 5}, "id: must be a string"),
        ({"id": "x" * 201}, "id: takes at most 200"),
        ({"model_name": "other"}, "the address names"),
        ({"extra": 1}, "extra"),
    ],
)
async def test_a_request_that_has_no_meaning(
    front: Front, changed: dict[str, Any], words: str
) -> None:
    body, headers = framed({"inputs": [HEAD]} | changed, DATA)
    response = await front.client.post(EXPLAIN_V2, content=body, headers=headers)
    assert words in error(response, 422, "invalid_request")["error"]


@pytest.mark.parametrize("depth", [200, 300, 900])
@pytest.mark.parametrize("name", ["class_index", "size", "class_label", "params", "a" * 300])
async def test_an_option_that_is_nested_deep(front: Front, name: str, depth: int) -> None:
    """JSON is written less deep than it is read."""
    deep = b'{"a":' * depth + b"0" + b"}" * depth
    for value in (deep, b"[" + deep + b"]"):
        options = b'"parameters":{"%b":%b}' % (name.encode(), value)
        v1 = b'{"instances":[{"b64":"%b"}],%b}' % (b64(png()).encode(), options)
        for verb in ("explain", "predict"):
            answer = await front.client.post(f"/v1/models/toy:{verb}", content=v1)
            error(answer, 422, "invalid_request")
        v2 = b'{"inputs":[%b],%b}' % (json.dumps(HEAD).encode(), options)
        headers = {HEADER: str(len(v2))}
        answer = await front.client.post(EXPLAIN_V2, content=v2 + DATA, headers=headers)
        error(answer, 422, "invalid_request")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"inputs": ' + b"[" * 100_000]
)
async def test_bodies_that_are_no_json(front: Front, body: bytes) -> None:
    response = await front.client.post(EXPLAIN_V2, content=body)
    assert response.status_code == 400
    error(response, 400, response.json()["code"])


async def test_a_body_is_limited_as_everywhere(redis_url: str) -> None:
    limit = len(TEXT) + len(DATA)
    async with running_front(redis_url, max_body_mb=limit / 1e6) as front:
        await front.publish()
        inside, _, _ = await front.done(post(front, HEAD, DATA))
        assert inside.status_code == 200
        error(await post(front, HEAD, DATA, b"x"), 413, "too_large")


@pytest.mark.parametrize("count", [32, 33])
async def test_inputs_are_limited_as_everywhere(front: Front, count: int) -> None:
    batch = np.zeros((count, 3, 32, 32), np.float32)
    asked = post(front, tensor(batch, binary=True), batch.tobytes(), outputs=[{"name": "score"}])
    if count == 32:
        response, _, _ = await front.done(asked)
        assert response.status_code == 200
    else:
        error(await asked, 413, "too_large")
    halves = [tensor(batch[: count // 2]), tensor(batch[count // 2 :]) | {"name": "b"}]
    asked = front.client.post(EXPLAIN_V2, json={"inputs": halves, "outputs": [{"name": "score"}]})
    if count == 32:
        response, _, _ = await front.done(asked)
        assert response.status_code == 200
    else:
        error(await asked, 413, "too_large")


@pytest.mark.parametrize("count", [32, 33])
async def test_files_of_a_labelled_batch_are_counted_before_they_are_made(
    front: Front, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Of five bytes each, a body would have four million."""
    made: list[str] = []
    real = v2_requests.from_bytes

    def watched(*args: Any) -> Any:
        made.append("files")
        return real(*args)

    monkeypatch.setattr(v2_requests, "from_bytes", watched)
    data = joined([b"\x93NUMPY"] * count)
    head = {"name": "x", "shape": [count], "datatype": "BYTES"}
    head["parameters"] = {"binary_data_size": len(data)}
    answer = await post(front, head, data, parameters={"format": "BCSS"})
    error(answer, *((422, "invalid_input") if count == 32 else (413, "too_large")))
    assert len(made) == (count == 32)


@pytest.mark.parametrize("verb", ["explain", "predict"])
async def test_instances_are_counted_before_they_are_made_inputs(
    front: Front, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Empty lists, of which a body has six million, would take three gigabytes."""
    made: list[int] = []

    def watched(number: int, instance: Any) -> dict[str, Any]:
        made.append(number)
        return {"tensor": {"data": instance}}

    monkeypatch.setattr(v1_instances, "_input", watched)
    body = b'{"instances":[' + b"[]," * 32 + b"[]]}"
    error(await front.client.post(f"/v1/models/toy:{verb}", content=body), 413, "too_large")
    assert made == []


async def test_pixels_are_limited_as_everywhere(redis_url: str) -> None:
    async with running_front(redis_url, max_megapixels=0.001) as front:
        await front.publish()
        for width, status in ((40, 200), (41, 413)):
            levels = np.zeros((1, 25, width, 1), np.uint8)
            asked = post(front, tensor(levels))
            response = (await front.done(asked))[0] if status == 200 else await asked
            assert response.status_code == status, response.text
