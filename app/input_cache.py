"""What uploads became, remembered: a file that comes again is not decoded and resized again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from app.documents import Upload
from app.inputs import PreparedInput
from app.request_metrics import RequestMetrics
from camserve.contracts.input_specs import InputSpec

__all__ = ["QUICKLY_DIGESTED", "InputCache", "key_of"]

QUICKLY_DIGESTED: Final = 262_144
"""Bytes that are digested in less time than the way to a thread and back takes."""
_OVERHEAD: Final = 2048  # bytes of Python's objects, about
_LARGEST_SHARE: Final = 1 / 8
"""Of the whole that one upload may take, or a few large ones would drive out all others."""


def key_of(
    file: bytes, upload: Upload, spec: InputSpec, labels: str | None = None, *, drawn: bool = True
) -> bytes:
    """Equal for uploads of a file of which `prepare`, with these arguments, makes the same. Digests
    the file: a millisecond a megabyte."""
    how = repr((spec.model_dump_json(), upload.name, upload.format or labels, drawn))
    digest = hashlib.sha256(how.encode())
    digest.update(file)
    return digest.digest()


class InputCache:
    """One per front end, for its event loop. Least recently used out first.

    limit_bytes: of all that is remembered; 0: nothing is.
    """

    def __init__(self, limit_bytes: float, metrics: RequestMetrics) -> None:
        self._limit_bytes = limit_bytes
        self._metrics = metrics
        self._kept: OrderedDict[bytes, Sequence[PreparedInput]] = OrderedDict()
        self._bytes = 0

    @property
    def is_on(self) -> bool:
        return self._limit_bytes > 0

    def get(self, key: bytes) -> Sequence[PreparedInput] | None:
        """What was kept under it, which counts as used."""
        found = self._kept.get(key)
        self._metrics.input_lookups.labels("miss" if found is None else "hit").inc()
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: bytes, inputs: Sequence[PreparedInput]) -> None:
        """Remember it in place of what was not used for longest. Nothing may write to it again."""
        size = _bytes_of(inputs)
        if size > self._limit_bytes * _LARGEST_SHARE:
            return
        self._bytes += size - _bytes_of(self._kept.pop(key, ()))
        self._kept[key] = inputs
        while self._bytes > self._limit_bytes:
            self._bytes -= _bytes_of(self._kept.popitem(last=False)[1])
        self._metrics.input_cache_bytes.set(self._bytes)


def _bytes_of(inputs: Sequence[PreparedInput]) -> int:
    return sum(one.tensor.nbytes + len(one.picture) + _OVERHEAD for one in inputs)
