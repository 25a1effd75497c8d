"""What all calls leave in Redis when nobody asks any more: nothing waits, and all else ends."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from camserve.api_keys import Scope
from camserve.broker import Totals, keys
from camserve.contracts.jobs import Job
from tests.app.front import Front, prediction_of
from tests.app.keys import add_key
from tests.app.outbound.web_server import web_server
from tests.app.webhooks.inbox import Inbox, hooked_front
from tests.app.webhooks.test_deliveries import (
    asked,
    cancel,
    die,
    expire,
    fail,
    settled,
    succeed,
)
from tests.broker.jobs import assert_at_rest, eventually

pytestmark = pytest.mark.anyio

# a line of the table in keys.py: what stands there for a name, and what only passes by
_FAMILY = re.compile(r"cam:[{}:\w-]+")
_NAMES = {
    "{M}": r"\{(toy|\*)\}",
    "LANE": r"[\w@:]+",
    "ENTRY": r"[0-9a-f]{64}(@[\w:]+)?",
    "ID": "[^:]+",
    "N": "[^:]+",
    "WHO": "[^:]*",
    "KEY": ".+",
}
_FLEETING = {"cam:{M}:staged:ID:N", keys.REAPER}
_CHANNELS = {keys.DONE, keys.NEWS, keys.DELIVERIES}


def families() -> dict[str, re.Pattern[str]]:
    """All keys that are documented, as patterns."""
    table = str(keys.__doc__).partition("Lives:")[0]
    return {
        name: re.compile(":".join(_NAMES.get(part, re.escape(part)) for part in name.split(":")))
        for name in _FAMILY.findall(table)
    }


async def every_call(front: Front, inbox: Inbox) -> None:
    """Each way in, and each way out."""
    headers = {"Idempotency-Key": "again"}
    await front.done(front.post(headers=headers))
    assert (await front.post(headers=headers)).status_code == 200
    for end in (succeed, fail, cancel, expire, die):
        told = await asked(front, inbox, execution="cpu")
        await end(front, told)
        await settled(front, told)
    await predictions(front)
    for model in ("toy", None):  # as workers do
        await Totals(front.redis).add({model: {"measured": 1.5}}, "nonce")
    ear = await front.commanded()
    load = asyncio.create_task(front.client.post("/v1/models/toy/load"))
    (command,) = await ear.next(2.0)
    await ear.answer(command)
    assert (await load).status_code == 200
    assert (await front.client.get("/v1/explanations")).status_code == 200
    (letter,) = (await front.client.get("/v1/dead-letters")).json()["dead_letters"]
    again = (await front.client.post(f"{letter['href']}/replay")).json()["replay"]["id"]
    await succeed(front, again)
    await settled(front, again)
    assert (await front.client.delete("/v1/dead-letters")).json() == {"purged": 1}
    again = await front.post(
        params={"execution": "cpu", "webhook": inbox.url}, headers={"Cache-Control": ""}
    )
    assert again.headers["Cache-Status"] == "camserve; hit"
    await settled(front, again.json()["id"])


async def predictions(front: Front) -> None:
    """One that is answered, and one whose client leaves."""
    tensor = {"tensor": {"data": np.zeros((3, 32, 32)).tolist()}}
    for leaves in (False, True):
        asking = asyncio.create_task(
            front.client.post("/v1/models/toy/predict", json={"inputs": [tensor]})
        )
        begun = await front.begin()
        if leaves:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        job = Job.model_validate_json(begun.document)
        await front.worker.finish(begun, prediction_of(job, [np.zeros(5, np.float32)]))
        assert leaves or (await asking).status_code == 200


async def test_after_every_call_nothing_is_left_for_ever(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = add_key(path, "me", Scope.ADMIN, rate=1000)
    async with web_server() as receiver:
        inbox = Inbox(receiver)
        cached = {"result_cache_mb": 1}
        async with hooked_front(redis_url, inbox, api_keys_file=path, **cached) as front:
            front.client.headers.update({"X-API-Key": key, "Cache-Control": "no-cache"})
            seen: set[str] = set()
            over = asyncio.Event()

            async def watch() -> None:
                while not over.is_set():
                    seen.update(name.decode() for name in await front.redis.keys())
                    await asyncio.sleep(0.002)

            watching = asyncio.create_task(watch())
            await every_call(front, inbox)
            over.set()  # redis-py in Python 3.11 may swallow a cancel
            await watching

            async def depth() -> bool:
                return not [
                    one for one in await front.redis.keys("*stream*") if await front.redis.xlen(one)
                ]

            await eventually(depth)
            await assert_at_rest(front.redis)
    known = families()
    for name in seen:
        assert any(one.fullmatch(name) for one in known.values()), f"{name} is not in keys.py"
    unseen = {one for one in known if not any(known[one].fullmatch(name) for name in seen)}
    assert unseen - _FLEETING == _CHANNELS, "no longer used, or not tested"
