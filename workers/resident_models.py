"""The models that are on the device, who uses them, and which of them make room for another."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from workers.models import ResidentModel

__all__ = ["ResidentModels"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Leaving:
    """Let go of, and still used by what had begun with it."""

    bytes: int
    uses: frozenset[asyncio.Future[None]]

    @property
    def is_over(self) -> bool:
        return all(use.done() for use in self.uses)


class ResidentModels:
    """One version of each model, under a memory budget.

    What is let go of stays in memory until the jobs that use it are done, and counts until then.
    is_for_good: whether a model cannot be loaded again as it is, so that it makes room for none.
    count_evicted: is told of those that had to make room.
    """

    def __init__(
        self,
        budget_bytes: int,
        is_for_good: Callable[[str], bool],
        count_evicted: Callable[[Iterable[str]], None],
    ) -> None:
        self._budget_bytes = budget_bytes
        self._is_for_good = is_for_good
        self._count_evicted = count_evicted
        self._models: OrderedDict[str, ResidentModel] = OrderedDict()
        self._uses: dict[str, set[asyncio.Future[None]]] = {}
        self._leaving: list[_Leaving] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The least recently used first."""
        return tuple(self._models)

    @property
    def bytes(self) -> int:
        """Of weights, with those of models that are still being used up."""
        self._leaving = [one for one in self._leaving if not one.is_over]
        return self._resident_bytes + sum(one.bytes for one in self._leaving)

    def use(self, name: str) -> ResidentModel | None:
        """The model, if it is here, which is now the most recently used."""
        if name in self._models:
            self._models.move_to_end(name)
        return self._models.get(name)

    def look_at(self, name: str) -> ResidentModel | None:
        """The same, and it does not count as used."""
        return self._models.get(name)

    def put(self, model: ResidentModel) -> bool:
        """Take it in, or in the place of another version of it; returns whether there was one."""
        name = model.card.name
        replaced = self.let_go(name)
        self._models[name] = model
        return replaced

    def amend(self, model: ResidentModel) -> None:
        """What is known of a model that is here has changed, and not the model."""
        self._models[model.card.name] = model

    def let_go(self, name: str) -> bool:
        """Whoever asks for it from now on has it loaded again; returns whether it was here."""
        model = self._models.pop(name, None)
        if model is not None:
            self._leaving.append(_Leaving(model.bytes, frozenset(self._uses.get(name, ()))))
        return model is not None

    @contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """While jobs of the model are in hand, loaded or not yet."""
        use = asyncio.get_running_loop().create_future()
        uses = self._uses.setdefault(name, set())
        uses.add(use)
        try:
            yield
        finally:
            uses.discard(use)
            if not uses:
                self._uses.pop(name, None)
            use.set_result(None)

    async def unused(self, name: str) -> None:
        """Return when nobody uses the model any more of those who do now."""
        if uses := set(self._uses.get(name, ())):
            await asyncio.wait(uses)

    def let_go_of_idle(self, keep: str) -> bool:
        """Let go of all but `keep` that nobody uses and that can be loaded again; returns whether
        there were any."""
        idle = [
            name
            for name in self._models
            if name != keep and name not in self._uses and not self._is_for_good(name)
        ]
        for name in idle:
            self.let_go(name)
        self._count_evicted(idle)
        if idle:
            logger.info("evicted to make room for %s: %s", keep, ", ".join(idle))
        return bool(idle)

    async def make_room(self, size: float, keep: str) -> bool:
        """Let go of others than `keep`, idle ones first, until `size` bytes more fit into the
        budget, or nothing is left to let go of; returns when they are out of use, and whether there
        is memory to be freed."""
        made = False
        idle_first = sorted(self._models, key=lambda name: name in self._uses)
        for name in idle_first:
            if self._resident_bytes + size <= self._budget_bytes:
                break
            if name != keep and not self._is_for_good(name):
                made = self.let_go(name)
                self._count_evicted([name])
                logger.info(
                    "model %s is evicted: the memory budget is %d MB",
                    *(name, self._budget_bytes // 1_000_000),
                )
        while self.bytes + size > self._budget_bytes and self._leaving:
            await asyncio.wait(set().union(*(one.uses for one in self._leaving)))
            made = True
        return made

    @property
    def _resident_bytes(self) -> int:
        return sum(model.bytes for model in self._models.values())
