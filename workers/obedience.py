"""What a worker is told by the front ends: to load a model, or to unload it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from camserve.broker import LONGEST_BLOCK_S, CommandReader, ModelCommand
from camserve.errors import QueueUnavailable
from workers.failures import failure_of
from workers.pacing import OUTAGE_PAUSE_S, Pacing

__all__ = ["Obedience"]

OfModel = Callable[[str], Awaitable[None]]


class Obedience:
    """Carries out the commands for models of which it `knows`.

    load, unload: of a model, by its name. heartbeat: tells what is resident. aside: runs what may
    take minutes beside the worker's loop.
    """

    def __init__(
        self,
        commands: CommandReader,
        knows: Callable[[str], bool],
        pacing: Pacing,
        *,
        load: OfModel,
        unload: OfModel,
        heartbeat: Callable[[], Awaitable[None]],
        aside: Callable[[Awaitable[None]], None],
    ) -> None:
        self._commands = commands
        self._knows = knows
        self._pacing = pacing
        self._do = {"load": load, "unload": unload}
        self._heartbeat = heartbeat
        self._aside = aside

    async def start(self) -> None:
        """Commands count from now on. Raises QueueUnavailable."""
        await self._commands.start()

    async def listen(self) -> None:
        """For ever, also through outages."""
        while True:
            try:
                commands = await self._commands.next(LONGEST_BLOCK_S)
            except QueueUnavailable:
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            for command in commands:
                if self._knows(command.model):
                    self._aside(self._obey(command))

    async def _obey(self, command: ModelCommand) -> None:
        failure = b""
        try:
            await self._do[command.kind](command.model)
        except Exception as error:  # noqa: BLE001 - somebody waits for the answer
            said = failure_of(error, f"{command.kind}ing {command.model}")
            failure = said.model_dump_json().encode()
        # who waits for the answer looks at the heartbeats next
        await self._pacing.persist(self._heartbeat)
        await self._pacing.persist(partial(self._commands.answer, command, failure))
