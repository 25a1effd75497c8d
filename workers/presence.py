"""What a worker says of itself to the rest of the service: model cards and heartbeats."""

from __future__ import annotations

import logging
import os
import re
import socket

from pydantic import ValidationError

from camserve.broker import Registry
from camserve.contracts.cards import ResolvedCard, WorkerStatus
from camserve.errors import QueueUnavailable
from camserve.vocabulary import MODEL_NAME
from workers.models import declared_card, unavailable_card
from workers.proof import Proof
from workers.repository import Repository
from workers.service_times import Measured

__all__ = ["Presence"]

logger = logging.getLogger(__name__)


class Presence:
    """One worker's side of the registry."""

    def __init__(
        self,
        registry: Registry,
        repository: Repository,
        proof: Proof,
        *,
        worker: str,
        device: str,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._proof = proof
        self._worker = worker
        self._device = device
        self._measured = Measured()
        self._cards: dict[str, ResolvedCard] = {}
        self._unpublished: set[str] = set()
        self.warm = False

    async def publish(self, card: ResolvedCard) -> None:
        """Publish one card; in an outage it is left to a later heartbeat."""
        self._cards[card.name] = card
        self._unpublished.add(card.name)
        try:
            await self._registry.publish_card(card.name, card.model_dump_json().encode())
        except QueueUnavailable:
            logger.warning("Redis is away: the card of %s is published later", card.name)
        else:
            self._unpublished.discard(card.name)

    async def publish_all(self) -> None:
        """Publish what is known of each model; drop what nobody has. Raises QueueUnavailable."""
        published = await self._registry.cards()
        for name, entry in self._repository.entries.items():
            card = self._cards.get(name) or declared_card(entry)
            known = _card(published.get(name))
            # what another worker learnt about the same files stays; an old failure does not
            settled = known is not None and known.version == entry.version
            if card.state == "ready" or not settled or (known and known.state == "unavailable"):
                await self.publish(card)
        for name, error in self._repository.invalid.items():
            if re.fullmatch(MODEL_NAME, name):  # else no request can name it
                await self.publish(unavailable_card(name, None, error))
        await self._drop_orphans(set(published))

    async def _drop_orphans(self, published: set[str]) -> None:
        statuses = [_status(status) for status in (await self._registry.workers()).values()]
        if None in statuses:
            return  # a worker of another version lives, and what it serves cannot be read here
        served = {name for status in statuses if status for name in status.models}
        for name in published - served - {*self._repository.entries, *self._repository.invalid}:
            await self._registry.remove_card(name)

    def learn(self, model: str, kind: str, took_ms: float) -> None:
        """One more batch of the model, of this kind of job."""
        self._measured.learn(model, kind, took_ms)

    async def heartbeat(self, resident: tuple[str, ...]) -> None:
        """Say that this worker lives. Raises QueueUnavailable."""
        status = WorkerStatus(
            worker=self._worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            models=self._repository.names,
            resident=resident,
            warm=self.warm,
            proof_age_s=self._proof.age_s,
            p50_ms=self._measured.medians(),
        )
        known = await self._registry.heartbeat(
            self._worker,
            status.model_dump_json().encode(),
        )
        if not known:  # first heartbeat, or the server lost its data: it needs the cards again
            await self.publish_all()
        for name in sorted(self._unpublished):
            await self.publish(self._cards[name])

    async def leave(self) -> None:
        """Take this worker off the list at once. Raises QueueUnavailable."""
        await self._registry.remove_worker(self._worker)


def _card(value: bytes | None) -> ResolvedCard | None:
    """A published card; None if there is none, or one of another version of camserve."""
    try:
        return ResolvedCard.model_validate_json(value) if value else None
    except ValidationError:
        return None


def _status(value: bytes) -> WorkerStatus | None:
    try:
        return WorkerStatus.model_validate_json(value)
    except ValidationError:
        return None
