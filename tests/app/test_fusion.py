"""Maps of several layers, fused as asked or as the convention has it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.app.arrays import SEQUENCE, ask, card, loaded
from tests.app.front import Front

pytestmark = pytest.mark.anyio


async def test_several_layers_are_fused_as_asked_or_as_the_convention_has_it(front: Front) -> None:
    await front.publish(card(SEQUENCE, modules=("a", "b")))
    a = np.array([-3.0, 1.0, 0.5, 4.0], np.float32)
    b = np.array([2.0, 5.0, -1.0, 0.0], np.float32)
    for convention, fusion, signed, expected in (
        ("camserve", None, (a + b) / 2, (np.maximum(a, 0) + np.maximum(b, 0)) / 2),
        ("camserve", "max", np.maximum(a, b), np.maximum(np.maximum(a, b), 0)),
        ("camserve", "mean", (a + b) / 2, (np.maximum(a, 0) + np.maximum(b, 0)) / 2),
        ("torchcam", None, np.maximum(a, b),
         np.maximum(np.maximum(a, 0) / 4, np.maximum(b, 0) / 5)),
        ("torchcam", "mean", (a + b) / 2, (np.maximum(a, 0) / 4 + np.maximum(b, 0) / 5) / 2),
    ):  # fmt: skip
        params = {"convention": convention, "feature_layer": ["a", "b"]}
        params |= {"fusion": fusion} if fusion else {}
        response, job, _ = await ask(
            front, np.zeros((2, 9), np.float32), maps=lambda _: (a, b), **params
        )
        assert job.feature_layers == ("a", "b")
        (result,) = response.json()["results"]
        assert result["feature_layer"] == ["a", "b"]
        assert result["map"]["max"] == pytest.approx(signed.max())
        assert result["map"]["min"] == pytest.approx(signed.min())
        found = loaded(await front.client.get(result["map"]["href"], params={"size": "feature"}))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        other = {"size": "feature", "fusion": "max", "convention": "camserve"}
        later = loaded(await front.client.get(result["map"]["href"], params=other))
        np.testing.assert_allclose(later, np.maximum(np.maximum(a, b), 0), rtol=1e-5)


async def test_layers_of_unequal_size_meet_at_the_largest(front: Front) -> None:
    await front.publish(card(SEQUENCE, modules=("a", "b")))
    a, b = np.array([1.0, 3.0], np.float32), np.array([0.0, 1.0, 2.0, 8.0], np.float32)
    response, _, _ = await ask(
        front, np.zeros((2, 8), np.float32), maps=lambda _: (a, b),
        feature_layer=["a", "b"], convention="captum", upsampling="nearest",
    )  # fmt: skip
    (result,) = response.json()["results"]
    assert result["map"]["shape"] == [4]
    found = loaded(await front.client.get(result["map"]["href"]))
    np.testing.assert_allclose(found, (np.repeat(a, 4) + np.repeat(b, 2)) / 2)
