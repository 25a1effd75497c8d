"""Commands to all workers: each reads all of them once, in order, and from its own start on."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from camserve.broker import (
    CommandKind,
    CommandReader,
    CommandSender,
    JobQueue,
    QueueOptions,
    keys,
    new_command_id,
)
from tests.broker.jobs import assert_at_rest, blocked, time_passes

pytestmark = pytest.mark.anyio


@pytest.fixture
def sender(redis: Redis, options: QueueOptions) -> CommandSender:
    return CommandSender(redis, options)


async def sent(sender: CommandSender, kind: CommandKind, model: str) -> str:
    command_id = new_command_id()
    await sender.send(command_id, kind, model)
    return command_id


async def reading(redis: Redis, options: QueueOptions, worker: str) -> CommandReader:
    reader = CommandReader(redis, options, worker)
    await reader.start()
    return reader


async def test_every_worker_reads_every_command(
    redis: Redis, options: QueueOptions, sender: CommandSender
) -> None:
    first, second = [await reading(redis, options, name) for name in ("w1", "w2")]
    ids = [await sent(sender, "load", "a"), await sent(sender, "unload", "b")]
    for reader in (first, second):
        found = await reader.next(1)
        assert [(one.id, one.kind, one.model) for one in found] == [
            (ids[0], "load", "a"),
            (ids[1], "unload", "b"),
        ]
        assert await reader.next(0.01) == []
    late = await reading(redis, options, "w3")
    assert await late.next(0.01) == [], "what was before its time is none of its business"
    await sent(sender, "load", "c")
    (found,) = await late.next(1)
    assert found.model == "c"


async def test_a_waiting_worker_is_woken(
    redis: Redis, options: QueueOptions, sender: CommandSender
) -> None:
    reader = await reading(redis, options, "w1")
    waiting = asyncio.create_task(reader.next(60))
    await blocked(redis, 1)
    await sent(sender, "load", "a")
    async with asyncio.timeout(20):
        (found,) = await waiting
    assert found.kind == "load"


async def test_more_commands_than_one_read_takes(
    redis: Redis, options: QueueOptions, sender: CommandSender
) -> None:
    reader = await reading(redis, options, "w1")
    ids = [await sent(sender, "load", "a") for _ in range(40)]
    found: list[str] = []
    while batch := await reader.next(0.01):
        found += [one.id for one in batch]
    assert found == ids


async def test_answers_come_to_the_one_who_waits(
    redis: Redis, options: QueueOptions, sender: CommandSender, queue: JobQueue
) -> None:
    first, second = [await reading(redis, options, name) for name in ("w1", "w2")]
    command_id = await sent(sender, "load", "a")
    assert await sender.answers(command_id) == {}
    with queue.answered(command_id) as news:
        (command,) = await first.next(1)
        await first.answer(command)
        async with asyncio.timeout(20):
            await news.wait()
    (command,) = await second.next(1)
    await second.answer(command, b'{"code": "x"}')
    await second.answer(command, b'{"code": "x"}')  # a reply that was lost
    assert await sender.answers(command_id) == {"w1": b"", "w2": b'{"code": "x"}'}


async def test_a_server_that_lost_everything(
    redis: Redis, options: QueueOptions, sender: CommandSender
) -> None:
    reader = await reading(redis, options, "w1")
    await sent(sender, "load", "a")
    await reader.next(1)
    await redis.flushall()
    await time_passes(redis)  # entries are numbered by the server's milliseconds
    await sent(sender, "load", "b")
    (found,) = await reader.next(1)
    assert found.model == "b"


async def test_all_of_it_passes_away(
    redis: Redis, options: QueueOptions, sender: CommandSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = await reading(redis, options, "w1")
    await sent(sender, "load", "a")
    (command,) = await reader.next(1)
    await reader.answer(command)
    await assert_at_rest(redis)
    monkeypatch.setattr(keys, "COMMANDS_CAP", 100)
    for _ in range(1000):
        await sent(sender, "load", "a")
    assert await redis.xlen(keys.COMMANDS) < 400  # whole nodes go, of a hundred entries
