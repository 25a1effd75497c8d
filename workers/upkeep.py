"""What changes in the model repository is brought into the running worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from camserve.errors import CamserveError, ErrorCode, InvalidCard, QueueUnavailable
from camserve.settings import Settings
from workers.presence import Presence
from workers.quarantine import Quarantine
from workers.repository import Entry, Repository, is_model_name
from workers.residency import Residency
from workers.watch import Change, Watch

__all__ = ["Upkeep"]

logger = logging.getLogger(__name__)


class Upkeep:
    """Keeps `repository`, which all parts of a worker share, as the folders are.

    aside: runs what may take minutes beside the worker's loop.
    """

    def __init__(
        self,
        repository: Repository,
        residency: Residency,
        presence: Presence,
        quarantine: Quarantine,
        settings: Settings,
        *,
        aside: Callable[[Awaitable[None]], None],
    ) -> None:
        self._repository = repository
        self._residency = residency
        self._presence = presence
        self._quarantine = quarantine
        self._settings = settings
        self._aside = aside
        self._watch = Watch(settings.models_dir, repository.glimpses)
        # not the event loop's own threads, which asyncio waits for at the end: a disk may hang
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._is_readable = True
        self._changes: deque[Change] = deque()
        self._tried_s: dict[str, float] = {}

    def loads_at_once(self, entry: Entry) -> bool:
        """Whether a model is loaded before somebody asks for it."""
        return self._settings.preload == "local" and entry.is_local

    async def look(self) -> bool:
        """Take over what has changed and has settled; returns whether anything has.

        Raises QueueUnavailable; what is not taken over by then is by the next call.
        """
        try:
            changes = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._watch.look
            )
        except OSError as error:
            if self._is_readable:
                logger.warning(
                    "the model repository cannot be read (%s): what was there goes on", error
                )
            self._is_readable = False
            return False
        self._is_readable = True
        self._changes += changes  # they are told once
        has_changed = bool(self._changes)
        while self._changes:
            try:
                await self._take_over(self._changes[0])
            except QueueUnavailable:
                raise
            except Exception:
                logger.exception("the change of %s is not taken over", self._changes[0].name)
            self._changes.popleft()
        self._retry()
        return has_changed

    def close(self) -> None:
        """Look no more; a look that hangs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _take_over(self, change: Change) -> None:
        name, found = change.name, change.found
        self._tried_s.pop(name, None)
        if not is_model_name(name):  # no request can name it
            if isinstance(found, InvalidCard):
                logger.warning("a model is left out: %s", found)
            return
        match found:
            case Entry():
                logger.info("the folder of model %s holds version %s", name, found.version)
                self._repository.invalid.pop(name, None)
                self._repository.entries[name] = found
                self._quarantine.forget_others(name, found.version)
                await self._renew(found)
            case InvalidCard():
                self._repository.invalid[name] = found
                if name not in self._residency.resident:
                    self._repository.entries.pop(name, None)
                self._quarantine.forget_others(name, None)
                await self._residency.refuse(name, found)
            case None:
                logger.info("the folder of model %s is gone", name)
                self._repository.invalid.pop(name, None)
                self._repository.entries.pop(name, None)
                self._quarantine.forget_others(name, None)
                self._presence.withdraw(name)
                self._aside(self._residency.unload(name))

    async def _renew(self, entry: Entry) -> None:
        if self._residency.is_current(entry.name):  # only touched, or as it was before a mistake
            await self._residency.confirm(entry.name)
        elif entry.name in self._residency.resident:
            self._aside(self._update(entry.name))
        else:
            await self._presence.declare(entry)
            if self.loads_at_once(entry):
                self._aside(self._update(entry.name))

    def _retry(self) -> None:
        """Try updates again whose files may be had by now, and those that came while the update
        before them had not ended: nobody asks for them, for an older version is served."""
        now_s = asyncio.get_running_loop().time()
        for name in self._residency.resident:
            if self._residency.is_behind(name):
                self._aside(self._update(name))
                continue
            failed = self._residency.failed_update(name)
            if failed is None or failed.problem.code is not ErrorCode.MODEL_UNAVAILABLE:
                continue
            if now_s - self._tried_s.setdefault(name, now_s) >= self._settings.retry_load_s:
                self._tried_s[name] = now_s
                self._aside(self._update(name))

    async def _update(self, name: str) -> None:
        with contextlib.suppress(CamserveError):  # its published card says why
            await self._residency.update(name)
