"""Which models are resident on this worker's device: loaded on demand, least recently used out."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from camserve.contracts.cards import ResolvedCard
from camserve.engine import is_out_of_memory
from camserve.errors import CamserveError, ModelUnavailable, one_line
from camserve.settings import Settings
from workers.memory import free_memory
from workers.models import ResidentModel, load_model, unavailable_card
from workers.repository import Entry

__all__ = ["Residency"]

logger = logging.getLogger(__name__)

LOADS_AT_ONCE = 4  # they wait for downloads; modules are built one at a time


class Residency:
    """The models of one worker under a memory budget.

    A model that alone exceeds the budget is still served: the budget evicts others, it never
    refuses. Loading runs in a thread, so that jobs of resident models go on meanwhile.
    """

    def __init__(
        self,
        entries: dict[str, Entry],
        device: str,
        settings: Settings,
        publish: Callable[[ResolvedCard], Awaitable[None]],
    ) -> None:
        self._entries = entries
        self._device = device
        self._settings = settings
        self._publish = publish
        self._models: OrderedDict[str, ResidentModel] = OrderedDict()
        self._loading: dict[str, asyncio.Task[ResidentModel]] = {}
        self._in_use: dict[str, set[asyncio.Future[None]]] = {}
        # not the event loop's own threads, which asyncio waits for at the end: a download may hang
        self._threads = ThreadPoolExecutor(LOADS_AT_ONCE, thread_name_prefix="load")

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def loading(self) -> frozenset[str]:
        return frozenset(self._loading)

    def get(self, name: str) -> ResidentModel | None:
        """The model if it is resident; marks it as used."""
        if name in self._models:
            self._models.move_to_end(name)
        return self._models.get(name)

    async def load(self, name: str) -> ResidentModel:
        """Make the model resident; concurrent callers share one load.

        Raises CamserveError; the published card then says why.
        """
        model = self.get(name)
        if model is not None:
            return model
        task = self._loading.get(name)
        if task is None:
            task = asyncio.create_task(self._load(name))
            self._loading[name] = task
        return await asyncio.shield(task)

    async def _load(self, name: str) -> ResidentModel:
        entry = self._entries[name]
        try:
            model = await self._loaded(entry)
        except CamserveError as error:
            await self._publish_failure(entry, error)
            raise
        except Exception as error:
            logger.exception("model %s cannot be loaded", name)
            wrapped = ModelUnavailable(
                f"model {name!r} cannot be loaded ({type(error).__name__}); "
                "the worker's log says why"
            )
            await self._publish_failure(entry, wrapped)
            raise wrapped from error
        finally:
            self._loading.pop(name, None)
        self._models[name] = model
        self._evict(keep=name)
        logger.info(
            "model %s is resident on %s: explains %s", name, self._device, model.card.feature_layer
        )
        await self._publish(model.card)
        return model

    async def _loaded(self, entry: Entry) -> ResidentModel:
        """Raises what the load does; ModelUnavailable if there is no memory for it even with all
        others evicted that can be."""
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        load = partial(load_model, entry, self._device, self._settings)
        try:
            return await in_thread(load)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("no memory to load model %s: %s", entry.name, one_line(error))
        # out here what was loaded of it, which the error holds, can be given back
        self.make_room(entry.name)
        try:
            await in_thread(free_memory, self._device)
            return await in_thread(load)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            beside = [name for name in self._models if name != entry.name]
            raise ModelUnavailable(
                f"model {entry.name!r} does not fit into the memory of {self._device}"
                + (f" beside {', '.join(beside)}, which are in use" if beside else "")
                + ': quantization = "int8" on its card makes it smaller; or start a worker on a '
                "larger device"
            ) from error

    def make_room(self, keep: str) -> bool:
        """Evict all others that nobody uses; whether there were any. What they held can then be
        freed."""
        idle = [name for name in self._models if name != keep and not self._in_use.get(name)]
        for name in idle:
            del self._models[name]
        if idle:
            logger.info("evicted to make room for %s: %s", keep, ", ".join(idle))
        return bool(idle)

    @contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """While jobs of the model are in hand, loaded or not yet: an unload waits for their end."""
        use = asyncio.get_running_loop().create_future()
        uses = self._in_use.setdefault(name, set())
        uses.add(use)
        try:
            yield
        finally:
            uses.discard(use)
            use.set_result(None)

    async def unload(self, name: str) -> None:
        """Let go of the model, if it is resident or is being loaded.

        Returns when nobody uses it any more of those who did when it was let go. Who asks for it
        later has it loaded again, perhaps before that.
        """
        loading = self._loading.get(name)
        if loading is not None:
            await asyncio.wait([loading])
        if self._models.pop(name, None) is not None:
            logger.info("model %s is unloaded from %s", name, self._device)
        if uses := self._in_use.get(name):
            await asyncio.wait(set(uses))

    def close(self) -> None:
        """Start no more loads; one that runs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _publish_failure(self, entry: Entry, error: CamserveError) -> None:
        logger.warning("model %s is unavailable: %s", entry.name, error)
        await self._publish(unavailable_card(entry.name, entry, error))

    def _evict(self, keep: str) -> None:
        budget_mb = self._settings.memory_budget_mb
        used = sum(model.bytes for model in self._models.values())
        for name in list(self._models):
            if used <= budget_mb * 1_000_000:
                return
            if name != keep:
                used -= self._models.pop(name).bytes
                logger.info("model %s is evicted: the memory budget is %d MB", name, budget_mb)
