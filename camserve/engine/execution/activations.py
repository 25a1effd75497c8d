"""What crossed the boundary of a split network, kept so that the same input need not run again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["ActivationCache", "Recall", "Row", "joined", "row_of"]

Row = tuple[Tensor, ...]
"""Of one input: what crosses the boundary, with a batch of one where it counts the inputs."""


class ActivationCache:
    """Rows by their keys, the least recently used out first. For all models of one device.

    limit_bytes: of their tensors, on whatever device they are; 0 keeps nothing. Thread-safe.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.hits = 0
        self.misses = 0
        """Of lookups, ever."""
        self._lock = threading.Lock()
        self._rows: OrderedDict[tuple[Hashable, Hashable], tuple[Row, int]] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, model: Hashable, key: Hashable) -> Row | None:
        with self._lock:
            if (model, key) not in self._rows:
                self.misses += 1
                return None
            self.hits += 1
            self._rows.move_to_end((model, key))
            return self._rows[model, key][0]

    def put(self, model: Hashable, key: Hashable, row: Row) -> None:
        """Keep it, unless it alone is more than the limit."""
        size = sum(tensor.nbytes for tensor in row)
        with self._lock:
            self._take_out(model, key)
            if size > self.limit_bytes:
                return
            self._rows[model, key] = row, size
            self._bytes += size
            while self._bytes > self.limit_bytes:
                self._take_out(*next(iter(self._rows)))

    def keep_only(self, models: Collection[Hashable]) -> None:
        """Forget what is kept of all others."""
        with self._lock:
            for model, key in [name for name in self._rows if name[0] not in models]:
                self._take_out(model, key)

    def _take_out(self, model: Hashable, key: Hashable) -> None:
        if (model, key) in self._rows:
            self._bytes -= self._rows.pop((model, key))[1]

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()
            self._bytes = 0


@dataclass(frozen=True)
class Recall:
    """What may be remembered of the inputs of one call.

    model: stands for the very network. keys: one an input, equal for equal inputs; None: neither
    look it up nor keep it. fresh: the inputs that are computed anew even if they are known. hits:
    is told which were known.
    """

    cache: ActivationCache
    model: Hashable
    keys: Sequence[Hashable]
    fresh: frozenset[int] = frozenset()
    hits: set[int] = field(default_factory=set)

    def known(self, more: Hashable) -> list[Row | None]:
        """The rows that are known, of what `more` tells apart."""
        found: list[Row | None] = []
        for index, key in enumerate(self.keys):
            usable = key is not None and index not in self.fresh
            row = self.cache.get(self.model, (key, more)) if usable else None
            if row is not None:
                self.hits.add(index)
            found.append(row)
        return found

    def keep(self, more: Hashable, rows: dict[int, Row]) -> None:
        for index, row in rows.items():
            if self.keys[index] is not None:
                # own memory: a view would keep what the whole batch needed
                key = (self.keys[index], more)
                self.cache.put(self.model, key, tuple(tensor.clone() for tensor in row))


def joined(rows: Sequence[Row], batches: Sequence[int | None]) -> Row:
    """The rows as one batch."""
    return tuple(
        tensors[0] if batch is None else torch.cat(tensors, batch)
        for tensors, batch in zip(zip(*rows, strict=True), batches, strict=True)
    )


def row_of(together: Row, index: int, batches: Sequence[int | None]) -> Row:
    """One input's part of a batch: views."""
    return tuple(
        tensor if batch is None else tensor.narrow(batch, index, 1)
        for tensor, batch in zip(together, batches, strict=True)
    )
