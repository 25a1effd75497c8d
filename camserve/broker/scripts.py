"""The Lua scripts, and the one door to the server: a pipeline that knows how to load them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

from redis.asyncio import Connection, Redis
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from camserve.broker.connection import outage_or_other, outages_as_unavailable

__all__ = ["Command", "call", "execute", "execute_each"]

Argument = str | bytes | int | float
Command = tuple[Argument, ...]
"""One command: its name and arguments, as they go over the wire."""


_FOLDER = files("camserve.broker") / "lua"
_PRELUDE = "prelude"
_PARTS = {
    "accepting": frozenset({"enqueue", "recall", "replay"}),
    "result_cache": frozenset({"finish", "reap", "recall"}),
}
"""What several scripts need, and which."""


@cache
def _names() -> list[str]:
    names = {file.name.removesuffix(".lua") for file in _FOLDER.iterdir()}
    return sorted(names - {_PRELUDE, *_PARTS})


@cache
def _source(name: str) -> str:
    parts = [part for part, scripts in _PARTS.items() if name in scripts]
    return "".join((_FOLDER / f"{one}.lua").read_text() for one in (_PRELUDE, *parts, name))


@cache
def _digest(name: str) -> str:
    return hashlib.sha1(_source(name).encode(), usedforsecurity=False).hexdigest()


def call(name: str, keys: Sequence[str], *arguments: Argument) -> Command:
    """The command that runs `lua/<name>.lua`."""
    return ("EVALSHA", _digest(name), len(keys), *keys, *arguments)


async def execute(redis: Redis, *commands: Command) -> list[Any]:
    """Sends all commands in one round trip and returns their replies.

    If the server does not know a script (it restarted), all scripts are loaded and all commands
    sent again; so, as for a broken connection, commands must bear repetition.
    Raises QueueUnavailable when the server is away, ResponseError for an error of ours.
    """
    replies = await _replies(redis, commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def execute_each(redis: Redis, *groups: Sequence[Command]) -> list[Any]:
    """As `execute`, of groups that have nothing to do with each other: returns of each its last
    reply, or the error that it met. Raises QueueUnavailable when nothing is known of any."""
    replies = iter(await _replies(redis, [command for group in groups for command in group]))
    found: list[Any] = []
    for group in groups:
        own = [next(replies) for _ in group]
        errors = [reply for reply in own if isinstance(reply, Exception)]
        found.append(errors[0] if errors else own[-1])
    return found


async def _replies(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """Of each its reply, or the error that it met."""
    with outages_as_unavailable(), _cancel_kept():
        replies = await _send(redis, commands)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await _send(redis, [("SCRIPT LOAD", _source(name)) for name in _names()])
            replies = await _send(redis, commands)
    return [outage_or_other(one) if isinstance(one, Exception) else one for one in replies]


@contextmanager
def _cancel_kept() -> Iterator[None]:
    """Raises CancelledError for a cancel that was swallowed inside.

    redis-py sends with `asyncio.wait_for`, and that of Python 3.11 drops a cancel which arrives
    just as the sending ends: the caller, who has gone, would be worked for to the end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


async def _send(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    try:
        return await _in_one_go(redis, commands)
    except RedisTimeoutError:
        # a path that died without a word took all connections along: the idle ones would be found
        # out one by one, each by a caller who waits for it in vain
        await redis.connection_pool.disconnect(inuse_connections=False)
        raise


async def _in_one_go(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """What a pipeline of redis-py does, for two thirds of its processor time: each of those gives
    its connection back in a task of its own."""
    pool = redis.connection_pool
    connection: Connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        replies: list[Any] = await connection.retry.call_with_retry(
            lambda: _exchange(redis, connection, commands), lambda _: connection.disconnect()
        )
    finally:
        await pool.release(connection)
    return replies


async def _exchange(redis: Redis, connection: Connection, commands: Sequence[Command]) -> list[Any]:
    await connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    for name, *_ in commands:
        try:
            replies.append(await redis.parse_response(connection, str(name)))
        except ResponseError as error:
            replies.append(error)
    return replies
