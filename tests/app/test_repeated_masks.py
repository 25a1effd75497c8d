"""A mask that is asked for many times in one request is read and laid once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from app import regions
from camserve.contracts.input_specs import PictureSpec
from tests.app.arrays import URL, card, coded
from tests.app.front import Front, png

pytestmark = pytest.mark.anyio


async def test_equal_masks_of_all_targets_and_inputs(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen targets on 32 inputs of 49 megapixels would take four minutes."""
    counted = {"read_array": 0, "mask_shares": 0}

    def count(name: str) -> None:
        real = getattr(regions, name)

        def call(*args: object) -> object:
            counted[name] += 1
            return real(*args)

        monkeypatch.setattr(regions, name, call)

    for name in counted:
        count(name)
    spec = PictureSpec(height=32, width=32)
    await front.publish(card(spec, task="segmentation", output_shape=(5, 32, 32)))
    left = np.zeros((40, 48), bool)
    left[:, :24] = True

    def target(class_index: int, mask: np.ndarray) -> dict[str, object]:
        region = {"mask": {"base64": coded(mask)}}
        params = {"class_index": class_index, "region": region}
        return {"reduction": "segmentation", "params": params}

    fields = [target(0, left), target(1, left), target(2, ~left), target(3, left)]
    asked = front.client.post(
        URL,
        data={"request": json.dumps({"model": "toy", "targets": fields})},
        files=[("input", png())] * 3,
    )
    response, _, tensors = await front.done(asked)
    assert response.status_code == 200, response.text
    assert counted == {"read_array": 2, "mask_shares": 2}
    for number in range(3):
        for of_left in (0, 1, 3):
            assert tensors[f"region.{of_left}.{number}"][:, :16].all()
            assert not tensors[f"region.{of_left}.{number}"][:, 16:].any()
        np.testing.assert_array_equal(tensors[f"region.2.{number}"], ~tensors[f"region.0.{number}"])
