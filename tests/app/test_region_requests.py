"""Regions through HTTP: on the model's grid at the worker, and masks as files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.app.arrays import URL, VIDEO, card, coded, one_map, sample
from tests.app.front import CARD, Front, png, problem

pytestmark = pytest.mark.anyio


async def test_regions_reach_the_worker_on_the_models_grid(front: Front) -> None:
    segmenting = card(VIDEO, task="segmentation", output_shape=(5, 9, 12, 10))
    await front.publish(segmenting)
    sent = sample(VIDEO).transpose(2, 3, 0, 1)  # SSTC
    document = {
        "model": "toy",
        "format": "SSTC",
        "inputs": [{"tensor": {"npy_base64": coded(sent)}}],
        "targets": [
            {"reduction": "segmentation",
             "params": {"class_index": 1, "region": {"box": [2, 3, 4, 6, 8, 7]}}},
            {"reduction": "segmentation", "params": {"class_index": 2, "region": "all"}},
            {"reduction": "segmentation",
             "params": {"class_index": 3, "region": {"point": [11, 0, 5]}}},
        ],
    }  # fmt: skip
    asked = front.client.post(URL, json=document)
    response, job, tensors = await front.done(asked, one_map(3, 4, 5))
    assert response.status_code == 200, response.text
    assert sorted(tensors) == ["input.0", "region.0.0", "region.2.0"]
    box = np.zeros((9, 12, 10), dtype=bool)
    box[4:7, 2:6, 3:8] = True
    assert tensors["region.0.0"].dtype == np.bool_
    np.testing.assert_array_equal(tensors["region.0.0"], box)
    assert np.argwhere(tensors["region.2.0"]).tolist() == [[5, 11, 0]]
    assert [target.region for target in job.targets] == ["given", "all", "given"]


async def test_a_mask_file_for_several_pictures_and_what_is_wrong_with_one(front: Front) -> None:
    await front.publish(card(CARD.input, task="segmentation", output_shape=(5, 32, 32)))
    mask = Image.new("L", (48, 40))
    mask.paste(1, (0, 0, 24, 40))
    file = io.BytesIO()
    mask.save(file, "PNG")
    fields = {"model": "toy", "reduction": "segmentation", "params": '{"class_index": 2}'}
    files = [("input", png()), ("input", png()), ("mask", ("mask.png", file.getvalue()))]
    asked = front.client.post(URL, data=fields, files=files)
    response, _, tensors = await front.done(asked)
    assert response.status_code == 200, response.text
    for number in (0, 1):
        region = tensors[f"region.0.{number}"]
        assert region[:, :16].all()
        assert not region[:, 16:].any()
    files[1] = ("input", png(20, 20))
    refused = await front.client.post(URL, data=fields, files=files)
    document = problem(refused, 422, "invalid_request")
    assert "the mask is 40 x 48, the input 20 x 20" in document["detail"]
    assert (document["input"], document["target"]) == (1, 0)
    assert document["expected"] == [20, 20]


async def test_a_mask_is_read_once_for_all_inputs(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 times 50 megapixels would take a minute, from a file of six kilobytes."""
    from app import regions

    read = []
    real = regions.decode_mask
    monkeypatch.setattr(regions, "decode_mask", lambda *args: read.append(1) or real(*args))
    await front.publish(card(CARD.input, task="segmentation", output_shape=(5, 32, 32)))
    fields = {"model": "toy", "reduction": "segmentation", "params": '{"class_index": 2}'}
    files = [("input", png())] * 5 + [("mask", ("mask.png", png()))]
    response, _, _ = await front.done(front.client.post(URL, data=fields, files=files))
    assert response.status_code == 200, response.text
    assert len(read) == 1
