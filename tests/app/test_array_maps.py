"""Maps of arrays come back in the client's order and size, by a link or inside the answer."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from camserve.contracts.input_specs import InputSpec, PictureSpec, TensorSpec
from camserve.maps.resample import resample
from tests.app.arrays import (
    FILM,
    RANDOM,
    SEQUENCE,
    SPECTROGRAM,
    VIDEO,
    VOLUME,
    ask,
    card,
    job_axes,
    loaded,
    npy,
    one_map,
    sample,
)
from tests.app.front import Front, png, problem, running_front

pytestmark = pytest.mark.anyio

ORDERS: list[tuple[TensorSpec, str, tuple[int, ...]]] = [
    (VOLUME, "CSSS", (0, 1, 2)),
    (VOLUME, "SSSC", (0, 1, 2)),
    (VIDEO, "TCSS", (0, 1, 2)),
    (VIDEO, "SSTC", (1, 2, 0)),
    (VIDEO, "CSTS", (1, 0, 2)),
    (SPECTROGRAM, "TS", (1, 0)),
    (SEQUENCE, "TC", (0,)),
    (FILM, "SSST", (1, 2, 3, 0)),
]


def placed(labels: str) -> list[str]:
    """A name for each dimension: CSS as C, S0, S1."""
    seen: dict[str, int] = {}
    found = []
    for letter in labels:
        found.append(letter if letter != "S" else f"S{seen.get('S', 0)}")
        seen[letter] = seen.get(letter, 0) + 1
    return found


@pytest.mark.parametrize(("spec", "labels", "axes"), ORDERS, ids=lambda one: str(one)[:12])
async def test_maps_come_back_in_the_clients_order(
    front: Front, spec: TensorSpec, labels: str, axes: tuple[int, ...]
) -> None:
    await front.publish(card(spec))
    truth = sample(spec)
    model = placed(spec.labels)
    theirs = placed(labels)
    dropped = [name for name in model if name not in theirs]
    sent = truth.transpose([model.index(name) for name in (*dropped, *theirs)])
    sent = sent[0] if dropped else sent
    signed = one_map(*range(3, 3 + len(axes)))(0)
    response, _, tensors = await ask(front, sent, format=labels, maps=lambda _: signed)
    assert tensors["input.0"].tobytes() == np.ascontiguousarray(truth).tobytes()
    result = response.json()["results"][0]
    arranged = signed.transpose(axes)
    assert result["map"]["shape"] == list(arranged.shape)
    sent_size = [side for name, side in zip(theirs, sent.shape, strict=True) if name != "C"]
    double = "x".join(str(2 * side) for side in sent_size)
    cases = [("original", sent_size), ("input", sent_size), (None, sent_size),
             (str(2 * max(sent_size)), [2 * side for side in sent_size])]  # fmt: skip
    if len(axes) < 4:
        cases.append((double, [2 * side for side in sent_size]))
    for size, expected_size in cases:
        params = {} if size is None else {"size": size}
        found = loaded(await front.client.get(result["map"]["href"], params=params))
        expected = resample(np.maximum(arranged, 0), expected_size, "bicubic")
        np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)
        answer = await front.client.get(result["map"]["href"], params={**params, "as": "json"})
        assert answer.json()["shape"] == expected_size
        same = np.array(answer.json()["data"], np.float64).astype(np.float32)
        assert same.tobytes() == found.tobytes()
    at_feature = loaded(await front.client.get(result["map"]["href"], params={"size": "feature"}))
    np.testing.assert_allclose(at_feature, np.maximum(arranged, 0), rtol=1e-6)


async def test_maps_of_several_arrays_are_stacked(front: Front) -> None:
    await front.publish(card(VOLUME))
    volumes = RANDOM.normal(size=(2, 8, 12, 10)).astype(np.float32)
    response, _, _ = await ask(
        front, volumes, format="BSSS", maps=one_map(3, 4, 5), **{"as": "npy", "class_index": "0,1"}
    )
    stack = loaded(response)
    assert stack.shape == (4, 8, 12, 10)
    np.testing.assert_allclose(stack[3], 4 * stack[0], rtol=1e-5)


@pytest.mark.parametrize("how", ["list", "npy_base64"])
async def test_a_map_inside_the_answer(front: Front, how: str) -> None:
    await front.publish(card(VIDEO))
    response, _, _ = await ask(front, sample(VIDEO), maps=one_map(3, 4, 5), map=how, size="4x6x5")
    (result,) = response.json()["results"]
    linked = loaded(await front.client.get(result["map"]["href"]))
    assert linked.shape == (4, 6, 5)
    inline = result["map"]["data" if how == "list" else "npy_base64"]
    if how == "list":
        found = np.array(inline, np.float64).astype(np.float32)
    else:
        found = np.load(io.BytesIO(base64.b64decode(inline)))
    assert found.tobytes() == linked.tobytes()


async def test_maps_inside_the_answer_share_its_room(redis_url: str) -> None:
    async with running_front(redis_url, max_output_megapixels=0.001) as front:
        await front.publish(card(VOLUME))
        response, _, _ = await ask(
            front, sample(VOLUME), maps=one_map(3, 4, 5), map="list", class_index="0,1,2,3"
        )
        sizes = [np.size(result["map"]["data"]) for result in response.json()["results"]]
        assert sum(sizes) <= 1000
        assert min(sizes) > 100


async def test_a_default_map_is_made_to_fit_and_one_that_is_asked_for_is_not(
    redis_url: str,
) -> None:
    async with running_front(redis_url, max_output_megapixels=0.0005) as front:
        await front.publish(card(VOLUME))
        response, _, _ = await ask(front, sample(VOLUME), maps=one_map(3, 4, 5))
        href = response.json()["results"][0]["map"]["href"]
        shape = loaded(await front.client.get(href)).shape
        assert 250 < np.prod(shape) <= 500
        assert max(abs(np.array(shape) / (8, 12, 10) - shape[1] / 12)) < 0.13
        for size in ("original", "8x12x10", "99999x99999x99999", "12"):
            refused = await front.client.get(href, params={"size": size})
            document = problem(refused, 413, "too_large")
            assert "smaller size" in document["detail"]
            assert document["limit"] == 0.0005
        assert loaded(await front.client.get(href, params={"size": "6"})).shape == (4, 6, 5)


SIZES: list[tuple[InputSpec, str, str]] = [
    (VOLUME, "3x3", "has 2 numbers, and the input has 3 axes: it is 8x12x10"),
    (SEQUENCE, "3x3", "has 2 numbers, and the input has one axis: it is 9"),
    (SPECTROGRAM, "3x3x3", "has 3 numbers, and the input has 2 axes: it is 16x9"),
    (PictureSpec(height=32, width=32), "3x3x3", "three numbers, and a picture two axes"),
]


@pytest.mark.parametrize(("spec", "size", "told"), SIZES, ids=lambda one: str(one)[:20])
async def test_a_size_of_another_number_of_axes_is_refused_at_the_door_and_later(
    front: Front, spec: InputSpec, size: str, told: str
) -> None:
    await front.publish(card(spec))
    content = npy(sample(spec)) if isinstance(spec, TensorSpec) else png()
    maps = one_map(*[3] * job_axes(spec)) if isinstance(spec, TensorSpec) else one_map(3, 3)
    headers = {"Content-Type": "application/octet-stream"}
    for form in ("json", "npy", "png"):
        refused = await front.post(content, params={"size": size, "as": form}, headers=headers)
        document = problem(refused, 422, "invalid_request")
        assert told in document["detail"]
        assert document["field"] == "output.size"
    assert not await front.worker.claim(["toy"], 1, 0.05)
    response, _, _ = await front.done(front.post(content, headers=headers), maps)
    for view in ("map", "overlay"):
        href = f"{response.headers['location']}/results/0/{view}"
        document = problem(
            await front.client.get(href, params={"size": size}), 422, "invalid_request"
        )
        assert told in document["detail"]
        assert document["field"] == "size"
