"""Tell every live worker of a model to load or unload it, and wait for their answers."""

from __future__ import annotations

import asyncio
import contextlib

from app.state import AppState
from app.stopping import Stage
from camserve.broker import CommandKind, new_command_id
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.contracts.failures import FailureMessage
from camserve.errors import ModelUnavailable, NoWorker

__all__ = ["carried_out"]

LOOK_S = 0.5  # how often it is seen for oneself who lives, and who has answered


async def carried_out(
    state: AppState, kind: CommandKind, card: ResolvedCard, wait_s: float
) -> bool:
    """Whether all live workers have done it within `wait_s`; if not, they go on with it.

    A worker that dies over it is not waited for; one that comes in its place is told anew, unless
    it knows that the model is to blame, or as many died as a job may. Where nobody has the model,
    there is nothing to unload. Raises what a worker failed with; NoWorker, or the reason why nobody
    serves the model; QueueUnavailable.
    """
    clock = asyncio.get_running_loop()
    until_s = clock.time() + wait_s
    command_id = new_command_id()
    asked: set[str] = set()
    with state.queue.answered(command_id) as news:
        while True:
            news.clear()
            workers = await _workers_of(state, card.name)
            serving = {one.worker for one in workers}
            new = [one for one in workers if one.worker not in asked]
            if asked - serving and any(card.name not in one.models for one in new):
                # it came in the place of one that died over it: told anew, it would die as well
                card = await state.catalog.card(card.name)
                raise card.problem.to_error() if card.problem else _ended(card.name, kind)
            if new:
                await state.commands.send(command_id, kind, card.name)
                asked |= serving
            answers = await state.commands.answers(command_id)
            for failure in filter(None, answers.values()):
                raise FailureMessage.model_validate_json(failure).to_error()
            if serving <= answers.keys() and (serving or kind == "unload"):
                return True
            if len(asked - serving - answers.keys()) >= state.settings.max_attempts:
                raise _ended(card.name, kind)
            left_s = until_s - clock.time()
            if not serving and (not asked or left_s <= 0):
                raise card.problem.to_error() if card.problem else NoWorker(card.name)
            if left_s <= 0 or state.stopping.has_reached(Stage.LATE):
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_S)):
                    await news.wait()


def _ended(model: str, kind: CommandKind) -> ModelUnavailable:
    return ModelUnavailable(
        f"the workers of model {model!r} ended while they were to {kind} it: their log says why"
    )


async def _workers_of(state: AppState, model: str) -> list[WorkerStatus]:
    """The live workers that have the model in their repositories, as of now."""
    workers = await state.catalog.workers(fresh=True)
    return [
        one for one in workers if model in (*one.models, *one.unavailable) and not one.restarting
    ]
