"""What a worker says of itself to the rest of the service: model cards and heartbeats."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping

from camserve.broker import Registry
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.errors import ErrorCode, QueueUnavailable
from workers.device_thread import DeviceThread
from workers.metrics import WorkerMetrics
from workers.models import declared_card, unavailable_card
from workers.proof import Proof
from workers.quarantine import Quarantine
from workers.repository import Entry, Repository, is_model_name
from workers.service_times import Measured

__all__ = ["Presence"]

logger = logging.getLogger(__name__)

WITHDRAWN_S = 120.0  # beyond the life of the last heartbeat of a worker that died with the model


class Presence:
    """One worker's side of the registry."""

    def __init__(
        self,
        registry: Registry,
        repository: Repository,
        quarantine: Quarantine,
        proof: Proof,
        thread: DeviceThread,
        *,
        metrics: WorkerMetrics,
        worker: str,
        device: str,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._quarantine = quarantine
        self._proof = proof
        self._thread = thread
        self._metrics = metrics
        self._worker = worker
        self._device = device
        self._measured = Measured()
        self._cards: dict[str, ResolvedCard] = {}
        self._unpublished: set[str] = set()
        self._withdrawn_s: dict[str, float] = {}
        self.warm = False
        self.unserved: frozenset[str] = frozenset()
        """Models that nobody can serve, here or elsewhere: their jobs can only be refused."""
        self.withheld: frozenset[str] = frozenset()
        """Models that could not be loaded here, while others serve them: their jobs go there."""

    async def publish(self, card: ResolvedCard) -> None:
        """Publish one card; in an outage it is left to a later heartbeat.

        So is a failure, for as long as another worker holds what failed here.
        """
        self._cards[card.name] = card
        self._unpublished.add(card.name)
        try:
            if await self._works_elsewhere(card):
                return
            await self._registry.publish_card(card.name, card.model_dump_json().encode())
        except QueueUnavailable:
            logger.warning("Redis is away: the card of %s is published later", card.name)
        else:
            self._unpublished.discard(card.name)

    async def declare(self, entry: Entry) -> None:
        """Publish the card of a folder that is new or has changed, before it is loaded."""
        card = self._unloaded(entry)
        self._cards[entry.name] = card
        self._unpublished.discard(entry.name)
        try:
            known = _card(await self._registry.card(entry.name))
            is_told = known is not None and await self._is_enough(known, card)
        except QueueUnavailable:
            is_told = False
        if not is_told:
            await self.publish(card)

    def withdraw(self, name: str) -> None:
        """The folder is gone: with the next heartbeat, so is the card, if nobody else serves it."""
        self._cards.pop(name, None)
        self._unpublished.discard(name)
        self._withdrawn_s[name] = time.monotonic()

    async def publish_all(self) -> None:
        """Publish what is known of each model; drop what nobody has. Raises QueueUnavailable."""
        published = await self._registry.cards()
        for name, entry in self._repository.entries.items():
            card = self._cards.setdefault(name, self._unloaded(entry))
            known = _card(published.get(name))
            if card.state == "ready" or known is None or not await self._is_enough(known, card):
                await self.publish(card)
        for name, error in self._repository.invalid.items():
            if is_model_name(name) and name not in self._repository.entries:
                await self.publish(unavailable_card(name, None, error))
        others = await self._others()
        if others is not None:
            served = {name for one in others for name in one.models}
            mine = {*self._repository.entries, *self._repository.invalid}
            for name in set(published) - served - mine:
                await self._registry.remove_card(name)

    def learn(self, model: str, kind: str, took_ms: float, *, inputs: int) -> None:
        """One more batch of the model, of this kind of job, with so many inputs."""
        self._metrics.computed(model, kind, inputs=inputs, seconds=took_ms / 1000)
        self._measured.learn(model, kind, took_ms)

    def longest_ms(self, model: str, kind: str) -> float:
        """What a batch of the model took at most, of late; infinite if there was none."""
        return self._measured.longest_ms(model, kind)

    async def heartbeat(
        self,
        resident: tuple[str, ...],
        limited_batches: Mapping[str, int],
        *,
        activation_bytes: int = 0,
    ) -> None:
        """Say that this worker lives. Raises QueueUnavailable.

        limited_batches: inputs at once, of models whose batches the device's memory limits.
        activation_bytes: that are remembered of inputs.
        """
        broken = self._broken(resident)
        models = [name for name in self._repository.names if not _is_quarantined(broken.get(name))]
        status = WorkerStatus(
            worker=self._worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            models=tuple(models),
            resident=resident,
            unavailable=tuple(sorted(broken)),
            warm=self.warm,
            proof_age_s=self._proof.age_s,
            p50_ms=self._measured.medians(),
            memory=self._thread.memory,
            limited_batches=dict(limited_batches),
            activation_bytes=activation_bytes,
        )
        known = await self._registry.heartbeat(
            self._worker,
            status.model_dump_json().encode(),
        )
        if not known:  # first heartbeat, or the server lost its data: it needs the cards again
            await self.publish_all()
        for name in sorted(self._unpublished):
            await self.publish(self._cards[name])
        await self._look_for_others(resident)

    async def leave(self) -> None:
        """Take this worker off the list at once. Raises QueueUnavailable."""
        await self._registry.remove_worker(self._worker)

    def _unloaded(self, entry: Entry) -> ResolvedCard:
        problem = self._quarantine.problem(entry)
        return unavailable_card(entry.name, entry, problem) if problem else declared_card(entry)

    def _broken(self, resident: Iterable[str]) -> dict[str, ResolvedCard]:
        """The cards of models that could not be loaded here as they are now."""
        broken = {name for name, card in self._cards.items() if card.state == "unavailable"}
        return {name: self._cards[name] for name in broken.difference(resident)}

    async def _is_enough(self, known: ResolvedCard, card: ResolvedCard) -> bool:
        """Whether the published card tells as much as that of a model which is not loaded here.

        What another worker learnt of the same files stays, and that it keeps to a version before
        them; an old failure does not. Raises QueueUnavailable.
        """
        if card.problem is not None or known.state == "unavailable":
            return False
        if known.version == card.version:
            return True
        return _failed_version(known) == card.version and await self._is_served_by_others(card.name)

    async def _works_elsewhere(self, card: ResolvedCard) -> bool:
        """Whether it tells of a failure, and another worker serves the model all the same: in the
        version that failed here, or one before it. Raises QueueUnavailable."""
        failed = card.version if card.state == "unavailable" else _failed_version(card)
        if failed is None:
            return False
        known = _card(await self._registry.card(card.name))
        if known is None or known.state != "ready":
            return False
        if known.version != failed and (card.state == "ready" or _failed_version(known) != failed):
            return False
        return await self._is_served_by_others(card.name)

    async def _look_for_others(self, resident: Iterable[str]) -> None:
        """See who else serves what is not served here. After the heartbeat, so that of several who
        let go of a model at the same time the last one sees that nobody is left."""
        broken = self._broken(resident).keys()
        latest_s = time.monotonic() - WITHDRAWN_S
        self._withdrawn_s = {
            name: since_s
            for name, since_s in self._withdrawn_s.items()
            if since_s > latest_s and name not in self._repository.entries and name not in broken
        }
        served: set[str] = set()
        if broken or self._withdrawn_s:
            others = await self._others()
            if others is None:
                return
            served = _served(others)
        for name in self._withdrawn_s.keys() - served:
            await self._registry.remove_card(name)
        self.unserved = frozenset((broken | self._withdrawn_s.keys()) - served)
        self.withheld = frozenset(broken & served)

    async def _is_served_by_others(self, name: str) -> bool:
        return name in _served(await self._others() or ())

    async def _others(self) -> list[WorkerStatus] | None:
        """The other workers; None if one of another version of camserve is among them, for what
        it serves cannot be read here."""
        workers = (await self._registry.workers()).values()
        found = [WorkerStatus.of_this_version(status) for status in workers]
        if None in found:
            return None
        return [one for one in found if one and one.worker != self._worker]


def _served(workers: Iterable[WorkerStatus]) -> set[str]:
    """What live workers serve, and do not only have in their repositories."""
    live = (one for one in workers if not one.restarting)
    return {name for one in live for name in set(one.models) - set(one.unavailable)}


def _failed_version(card: ResolvedCard) -> str | None:
    return card.failed_update.version if card.failed_update else None


def _is_quarantined(card: ResolvedCard | None) -> bool:
    problem = card.problem if card else None
    return problem is not None and problem.code is ErrorCode.MODEL_QUARANTINED


def _card(value: bytes | None) -> ResolvedCard | None:
    """A published card; None if there is none, or one of another version of camserve."""
    return ResolvedCard.of_this_version(value) if value else None
