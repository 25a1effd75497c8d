"""What takes long is done beside the event loop."""

from __future__ import annotations

import inspect
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.main import _ROUTERS
from app.picture_threads import LESS_IMPORTANT, picture_threads
from tests.app.arrays import URL, WAVE, card, coded, loaded, npy, one_map, opened, sample
from tests.app.front import Front

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("body", ["lists", "npy_base64", "form"])
async def test_nothing_that_takes_long_runs_in_the_event_loop(
    front: Front, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    from app import documents, drawing, forms, inputs, presentation, regions, results, uploads

    # what is smaller than that does not take long
    monkeypatch.setattr(uploads, "SMALL_TEXT", 0)
    monkeypatch.setattr(results, "SMALL_RESULT", 0)
    ran: dict[str, set[bool]] = {}

    def watched(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            here = threading.current_thread() is threading.main_thread()
            ran.setdefault(name, set()).add(here)
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)

    for module, names in (
        (documents, ("read_array", "decoded")),
        (forms, ("parse_document",)),
        (inputs, ("read_array", "arranged", "sketch_of")),
        (regions, ("region_on", "read_mask")),
        (presentation, ("present",)),
        (results, ("metadata_of", "tensors_of")),
        (drawing, ("overlay",)),
    ):
        for name in names:
            watched(module, name)
    await front.publish(card(WAVE, task="segmentation", output_shape=(5, 9)))
    wave, mask = sample(WAVE), coded(np.ones(9, bool))
    params = {"class_index": 1, "region": {"mask": {"base64": mask}}}
    document = {"model": "toy", "targets": [{"reduction": "segmentation", "params": params}]}
    if body == "form":
        fields = {"request": json.dumps(document)}
        asked = front.client.post(URL, data=fields, files={"input": npy(wave)})
    else:
        tensor = {"data": wave.tolist()} if body == "lists" else {"npy_base64": coded(wave)}
        asked = front.client.post(URL, json={**document, "inputs": [{"tensor": tensor}]})
    response, _, _ = await front.done(asked, one_map(3))
    overlay = f"{response.headers['location']}/results/0/overlay"
    opened(await front.client.get(overlay))
    loaded(await front.client.get(overlay.replace("overlay", "map")))
    expected = {"arranged", "sketch_of", "region_on", "read_mask", "present", "overlay"}
    expected |= {"metadata_of", "tensors_of"}
    expected |= {"lists": {"read_array"}, "npy_base64": {"decoded", "read_array"},
                 "form": {"parse_document", "read_array"}}[body]  # fmt: skip
    assert set(ran) >= expected
    assert all(here == {False} for here in ran.values()), ran


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_pictures_give_way_to_the_event_loop(front: Front) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    with picture_threads(1) as threads:
        assert threads.submit(priority).result() == min(before + LESS_IMPORTANT, 19)
    assert priority() == before
    names: set[str] = set()
    from app import inputs

    real = inputs.decode_picture

    def decode(*args: Any) -> Any:
        names.add(threading.current_thread().name)
        assert priority() == min(before + LESS_IMPORTANT, 19)
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "decode_picture", decode)
        response, _, _ = await front.done(front.post())
    assert response.status_code == 200, response.text
    assert all(name.startswith("pictures") for name in names)
    assert names


def test_no_part_of_a_call_is_sent_to_a_thread_by_fastapi() -> None:
    """It does so with whatever is no coroutine function: half a millisecond for each."""

    def parts(dependant: Dependant) -> Iterator[Callable[..., Any]]:
        if dependant.call is not None:
            yield dependant.call
        for one in dependant.dependencies:
            yield from parts(one)

    routes = [one for module in _ROUTERS for one in module.router.routes]
    found = {part for one in routes if isinstance(one, APIRoute) for part in parts(one.dependant)}
    assert len(found) > 40
    assert [part for part in found if not inspect.iscoroutinefunction(part)] == []
