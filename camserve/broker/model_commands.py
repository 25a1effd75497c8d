"""Commands to all workers, to load or unload a model: one stream that each of them reads on its
own, so that none is lost and each is there at once, and a hash of what they answer."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal, cast

from redis.asyncio import Redis

from camserve.broker import keys
from camserve.broker.connection import LONGEST_BLOCK_S
from camserve.broker.options import QueueOptions
from camserve.broker.scripts import call, execute

__all__ = ["CommandKind", "CommandReader", "CommandSender", "ModelCommand", "new_command_id"]

CommandKind = Literal["load", "unload"]

_AT_ONCE = 16
_START = "0-0"


def new_command_id() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True)
class ModelCommand:
    """What every worker that serves the model is to do. Doing it twice is as good as once."""

    id: str
    kind: CommandKind
    model: str


class CommandSender:
    """The front end's side. All methods raise QueueUnavailable when the server is away."""

    def __init__(self, redis: Redis, options: QueueOptions) -> None:
        self._redis = redis
        self._options = options

    async def send(self, command_id: str, kind: CommandKind, model: str) -> None:
        """Tells all workers, who answer under that id; once more, for one that came later."""
        life_ms = self._options.job_ttl_ms
        await execute(
            self._redis,
            call("command", [keys.COMMANDS], command_id, kind, model, life_ms, keys.COMMANDS_CAP),
        )

    async def answers(self, command_id: str) -> dict[str, bytes]:
        """By worker: empty where it is done, else the failure. Whoever answers also says so on the
        channel of closed jobs, under the command's id."""
        (found,) = await execute(self._redis, ("HGETALL", keys.answers(command_id)))
        return {worker.decode(): answer for worker, answer in found.items()}


class CommandReader:
    """One worker's side. All methods raise QueueUnavailable when the server is away."""

    def __init__(self, redis: Redis, options: QueueOptions, worker: str) -> None:
        self._redis = redis
        self._options = options
        self._worker = worker
        self._read_to = _START

    async def start(self) -> None:
        """From now on: call it before the first heartbeat, by which the front ends know whose
        answer to wait for."""
        (newest,) = await execute(self._redis, ("XREVRANGE", keys.COMMANDS, "+", "-", "COUNT", 1))
        self._read_to = newest[0][0].decode() if newest else _START

    async def next(self, block_s: float) -> list[ModelCommand]:
        """The commands that came since, in order; waits up to `block_s` seconds, or
        LONGEST_BLOCK_S if that is less, for the first. A call that fails may be repeated."""
        wait_ms = max(round(min(block_s, LONGEST_BLOCK_S) * 1000), 1)  # 0 would be for ever
        (found,) = await execute(
            self._redis,
            ("XREAD", "COUNT", _AT_ONCE, "BLOCK", wait_ms, "STREAMS", keys.COMMANDS, self._read_to),
        )
        entries = found[0][1] if found else []
        if entries:
            self._read_to = entries[-1][0].decode()
        return [
            ModelCommand(
                fields[b"id"].decode(),
                cast("CommandKind", fields[b"kind"].decode()),
                fields[b"model"].decode(),
            )
            for _, fields in entries
        ]

    async def answer(self, command: ModelCommand, failure: bytes = b"") -> None:
        """Says that it is done, or why not (JSON with `code` and `detail`)."""
        await execute(
            self._redis,
            call(
                "answer",
                [keys.answers(command.id)],
                *(self._worker, failure, self._options.job_ttl_ms, command.id),
            ),
        )
