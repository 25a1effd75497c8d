"""Which models are resident on this worker's device, and in which version: loads and reloads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from camserve.contracts.cards import FailedUpdate, Optimization, ResolvedCard
from camserve.contracts.failures import FailureMessage
from camserve.errors import CamserveError, ModelLoading, ModelNotFound, ModelUnavailable
from camserve.settings import Settings
from workers.device_thread import die_hung
from workers.loading import load_noted
from workers.memory import free_memory
from workers.metrics import WorkerMetrics
from workers.models import ResidentModel, unavailable_card
from workers.quarantine import Quarantine
from workers.repository import Entry, Repository
from workers.resident_models import ResidentModels
from workers.side_threads import in_a_thread_that_ends
from workers.turns import Turns

__all__ = ["Residency"]

logger = logging.getLogger(__name__)

LOADS_AT_ONCE = 4  # they wait for downloads; modules are built one at a time


class Residency:
    """The models of one worker under a memory budget.

    A model that alone exceeds the budget is still served: the budget evicts others, it never
    refuses. Loading runs in a thread, so that jobs of resident models go on meanwhile. A version
    that works goes on until a newer one is loaded and warmed up, and beyond if that fails.
    """

    def __init__(
        self,
        repository: Repository,
        device: str,
        settings: Settings,
        publish: Callable[[ResolvedCard], Awaitable[None]],
        quarantine: Quarantine,
        *,
        metrics: WorkerMetrics,
    ) -> None:
        self._repository = repository
        self._device = device
        self._settings = settings
        self._publish = publish
        self._quarantine = quarantine
        self._metrics = metrics
        self._models = ResidentModels(
            settings.memory_budget_mb * 1_000_000,
            lambda name: not self.is_current(name),
            metrics.evicted,
        )
        self._failed: dict[str, FailedUpdate] = {}
        self._loading: dict[str, asyncio.Task[ResidentModel]] = {}
        self._turns = Turns(LOADS_AT_ONCE)

    @property
    def resident(self) -> tuple[str, ...]:
        return self._models.names

    @property
    def identities(self) -> frozenset[Hashable]:
        """Of the very models that are resident."""
        models = map(self._models.look_at, self._models.names)
        return frozenset(model.identity for model in models if model is not None)

    @property
    def loading(self) -> frozenset[str]:
        """Models of which no version can be used before a load has ended."""
        return frozenset(self._loading).difference(self._models.names)

    def get(self, name: str) -> ResidentModel | None:
        """The model if it is resident; marks it as used."""
        return self._models.use(name)

    def look_at(self, name: str) -> ResidentModel | None:
        """The same, and it does not count as used."""
        return self._models.look_at(name)

    async def adopt(self, model: ResidentModel, found: Optimization, more_bytes: int) -> None:
        """Publish how a model is run from now on, if it is still resident; it takes so many bytes
        more."""
        current = self._models.look_at(model.card.name)
        if current is None or current.identity is not model.identity:
            return
        known = [one for one in current.card.optimizations if one.precision != found.precision]
        card = current.card.model_copy(update={"optimizations": (*known, found)})
        self._models.amend(replace(current, card=card, bytes=current.bytes + more_bytes))
        await self.confirm(card.name)

    def in_use(self, name: str) -> AbstractContextManager[None]:
        """While jobs of the model are in hand, loaded or not yet: an unload waits for their end."""
        return self._models.in_use(name)

    def is_current(self, name: str) -> bool:
        """Whether what is resident is what the folder holds."""
        model, entry = self._models.look_at(name), self._known(name)
        return model is not None and entry is not None and model.card.version == entry.version

    def is_behind(self, name: str) -> bool:
        """Whether the folder of a resident model holds another version, which is not being loaded
        and has not failed."""
        model, entry = self._models.look_at(name), self._known(name)
        if model is None or entry is None or name in self._loading:
            return False
        failed = self._failed.get(name)
        return entry.version not in {model.card.version, failed.version if failed else ""}

    def failed_update(self, name: str) -> FailedUpdate | None:
        """What the folder of a resident model holds by now, if that could not be loaded."""
        return self._failed.get(name)

    async def load(self, name: str) -> ResidentModel:
        """Make the model resident, in whatever version; concurrent callers share one load.

        Raises CamserveError; the published card then says why.
        """
        return self.get(name) or await self.update(name)

    async def update(self, name: str) -> ResidentModel:
        """Load what the folder holds now, and let it take the place of what is resident.

        Raises CamserveError; what is resident then goes on, and its card says why.
        """
        task = self._loading.get(name)
        if task is None:
            task = asyncio.create_task(self._load(name))
            self._loading[name] = task
        return await asyncio.shield(task)

    async def make_resident(self, name: str) -> None:
        """Load the model for somebody who does not know whether it is: a failure elsewhere or a
        loss of data hid the card. Raises CamserveError."""
        if self.get(name) is None:
            await self.load(name)
        else:
            await self.confirm(name)

    def make_room(self, keep: str) -> bool:
        """Evict all others that nobody uses; whether there were any. What they held can then be
        freed."""
        return self._models.let_go_of_idle(keep)

    async def confirm(self, name: str) -> None:
        """Publish the card of a resident model, with what its folder holds if that failed."""
        if self.is_current(name):
            self._failed.pop(name, None)
        if model := self._models.look_at(name):
            failed = self._failed.get(name)
            await self._publish(model.card.model_copy(update={"failed_update": failed}))

    async def refuse(self, name: str, error: CamserveError, entry: Entry | None = None) -> None:
        """Publish why what the folder holds now cannot be used: `entry`, or no valid card."""
        logger.warning("model %s cannot be used as its folder is now: %s", name, error)
        if name in self._models.names:
            version, problem = entry.version if entry else "", FailureMessage.of(error)
            self._failed[name] = FailedUpdate(version=version, problem=problem)
            await self.confirm(name)
        else:
            await self._publish(unavailable_card(name, entry, error))

    async def unload(self, name: str) -> None:
        """Let go of the model, if it is resident or is being loaded.

        Returns when nobody uses it any more of those who did when it was let go, and its memory is
        free. Who asks for it later has it loaded again, perhaps before that.
        """
        loading = self._loading.get(name)
        if loading is not None:
            await asyncio.wait([loading])
        if self._models.let_go(name):
            logger.info("model %s is unloaded from %s", name, self._device)
        failed = self._failed.pop(name, None)
        if failed is not None and name in self._repository.entries:
            # the version that worked is gone for good, and what the folder holds cannot be loaded
            entry = None if name in self._repository.invalid else self._repository.entries[name]
            await self._publish(unavailable_card(name, entry, failed.problem.to_error()))
        await self._models.unused(name)
        await self._free()

    async def _load(self, name: str) -> ResidentModel:
        """Until a version is loaded, or fails, that the folder still holds at that time."""
        try:
            while True:
                entry = self._entry(name)
                try:
                    model = await self._load_version(entry)
                except CamserveError as error:
                    if self._known(name) is not entry:
                        continue
                    if not isinstance(error, ModelLoading):
                        await self.refuse(name, error, entry)
                    raise
                known = self._known(name)
                if known is not None and known.version == entry.version:
                    return await self._take_in(model)
        finally:
            self._loading.pop(name, None)

    def _entry(self, name: str) -> Entry:
        """Raises ModelNotFound, or InvalidCard."""
        if name in self._repository.invalid:
            raise self._repository.invalid[name]
        if name not in self._repository.entries:
            raise ModelNotFound(name, self._repository.names)
        return self._repository.entries[name]

    def _known(self, name: str) -> Entry | None:
        """What the folder holds, as far as it is known by now; None if it is no model any more."""
        return None if name in self._repository.invalid else self._repository.entries.get(name)

    async def _load_version(self, entry: Entry) -> ResidentModel:
        if quarantined := self._quarantine.problem(entry):
            raise quarantined
        limit_s = self._settings.load_time_limit_s
        async with self._turns.turn(alone=self._quarantine.is_suspect(entry)):
            began_s = time.monotonic()
            room = partial(self._make_room, asyncio.get_running_loop(), entry.name)
            load = partial(load_noted, entry, self._device, self._settings, self._quarantine, room)
            loading = in_a_thread_that_ends(load, "load")
            done, _ = await asyncio.wait([loading], timeout=limit_s)
            if not done:
                if self._turns.going == 1:  # of several, each may be what the others wait for
                    reason = f"its load outlasted CAMSERVE_LOAD_TIME_LIMIT_S ({limit_s:g} s)"
                    self._quarantine.convict(entry, reason)
                die_hung("loading", entry.name)
            try:
                with self._metrics.loading(entry.name, began_s):
                    return await loading
            except CamserveError:
                raise
            except Exception as error:
                logger.exception("model %s cannot be loaded", entry.name)
                raise ModelUnavailable(
                    f"model {entry.name!r} cannot be loaded ({type(error).__name__}); "
                    "the worker's log says why"
                ) from error

    async def _take_in(self, model: ResidentModel) -> ResidentModel:
        card = model.card
        replaced = self._models.put(model)
        self._failed.pop(card.name, None)
        logger.info(
            "model %s, version %s, is resident on %s: explains %s",
            *(card.name, card.version, self._device, card.feature_layer),
        )
        await self._publish(card)
        if replaced:
            await self._models.unused(card.name)
            await self._free()
        return model

    def _make_room(self, events: asyncio.AbstractEventLoop, name: str, size: float) -> None:
        """In the thread of a load: have the others make room, and free their memory."""
        made = self._models.make_room(size, keep=name)
        if asyncio.run_coroutine_threadsafe(made, events).result():
            free_memory(self._device)

    async def _free(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, free_memory, self._device)
