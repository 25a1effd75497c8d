"""A picture of one result does not read the others."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tests.app.arrays import loaded
from tests.app.front import Front

pytestmark = pytest.mark.anyio


def peak_at(number: int) -> np.ndarray:
    made = np.zeros((1000, 1000), np.float32)
    made[0, number] = 1
    return made


async def test_one_map_of_many_takes_the_room_of_one(front: Front) -> None:
    """Sixteen maps of 4 MB each: what Redis sends is read once, and not copied again."""
    asked = front.post(params={"class_index": ["0,1,2,3"] * 4, "upsampling": "none"})
    response, _, _ = await front.done(asked, peak_at)
    url = f"{response.headers['Location']}/results/7/map"
    tracemalloc.start()
    try:
        answer = await front.client.get(url)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert loaded(answer).argmax() == 7
    assert taken < 64e6 + 40e6
