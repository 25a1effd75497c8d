"""Resident models are made faster beside the jobs, in each precision that is asked for."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from camserve.contracts.cards import Optimization, Way
from camserve.engine.execution import Compiler, Optimized, Trial, optimize
from camserve.errors import one_line
from camserve.settings import Settings
from camserve.vocabulary import PRECISIONS, Precision
from workers.memory import free_memory
from workers.models import ResidentModel
from workers.residency import Residency
from workers.side_threads import in_a_thread_that_ends

__all__ = ["Optimizing"]

logger = logging.getLogger(__name__)

FOLDER = "compiled"


class Optimizing:
    """One per worker, and one model at a time. Jobs go on meanwhile, the slower for it."""

    def __init__(self, residency: Residency, settings: Settings, device: str) -> None:
        self._residency = residency
        self._settings = settings
        self._device = device
        self._running: asyncio.Task[None] | None = None
        self._tried: dict[object, set[Precision]] = {}

    def look(self) -> None:
        """Begin with what is resident and has not been tried, unless something is under way."""
        if self._settings.optimization == "none" or self._running is not None:
            return
        models = [self._residency.look_at(name) for name in self._residency.resident]
        present = [model for model in models if model is not None]
        self._tried = {m.identity: self._tried.get(m.identity, set()) for m in present}
        for model in present:
            for precision in self._wanted(model):
                if self._may_try(model, precision):
                    self._tried[model.identity].add(precision)
                    self._running = asyncio.create_task(self._optimize(model, precision))
                    self._running.add_done_callback(self._done)
                    return

    def _wanted(self, model: ResidentModel) -> list[Precision]:
        return [one for one in PRECISIONS if one == "float32" or one in model.asked]

    def _may_try(self, model: ResidentModel, precision: Precision) -> bool:
        return (
            model.explainer.is_split
            and model.card.quantization is None  # smaller is what was asked for, and not faster
            and precision not in self._tried[model.identity]
        )

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running = None
        if not task.cancelled() and (error := task.exception()):
            logger.error("a model is not made faster: %s", one_line(error))

    async def _optimize(self, model: ResidentModel, precision: Precision) -> None:
        name = model.card.name
        call = partial(self._call, model, precision)
        try:
            found = await in_a_thread_that_ends(call, "optimize")
        except Exception as error:  # noqa: BLE001 - the model works as it is
            logger.warning(
                "model %s is not made faster in %s: %s", name, precision, one_line(error)
            )
        else:
            logger.info("model %s runs %s in %s", name, found.way, precision)
            await self._residency.adopt(model, _as_message(found), found.bytes)
        finally:  # what the ways took that are not used
            await asyncio.get_running_loop().run_in_executor(None, free_memory, self._device)

    def _call(self, model: ResidentModel, precision: Precision) -> Optimized:
        compiler = None
        if self._settings.optimization == "compile":
            folder = self._settings.state_dir / FOLDER / model.card.name
            compiler = Compiler(folder.absolute(), self._settings.compile_time_limit_s)
        return optimize(model.explainer, precision, self._settings.max_batch, compiler)


def _as_message(found: Optimized) -> Optimization:
    return Optimization(
        precision=found.precision, way=found.way, ways=tuple(map(_way, found.trials))
    )


def _way(trial: Trial) -> Way:
    ratios = {str(count): round(ratio, 3) for count, ratio in (trial.ratio or {}).items()}
    return Way(
        way=trial.way,
        time_ratio=ratios or None,
        map_error=trial.agreement and trial.agreement.error,
        map_correlation=trial.agreement and trial.agreement.pearson,
        note=trial.note,
    )
