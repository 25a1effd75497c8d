"""What changes in the model repository while a worker runs. Reads files: call it in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from camserve.errors import InvalidCard
from workers.repository import Entry, Glimpse, entry_of, glimpse, glimpses

__all__ = ["Change", "Watch"]


@dataclass(frozen=True)
class Change:
    """A model folder that is new or another one: as it is now, or None if it is gone."""

    name: str
    found: Entry | InvalidCard | None


class Watch:
    """Looks at names, sizes and times of the files; reads those of a folder that has changed.

    A change counts once two looks in a row saw the same: a folder that is still being copied, or is
    being replaced by another one, is left alone until then.
    """

    def __init__(self, models_dir: Path, known: Mapping[str, Glimpse]) -> None:
        self._models_dir = models_dir
        self._told = dict(known)
        self._seen = dict(known)

    def look(self) -> list[Change]:
        """What has changed since it was last told, and has settled.

        Raises OSError where the repository itself cannot be read: then nothing is gone.
        """
        now = glimpses(self._models_dir, self._seen)
        before, self._seen = self._seen, now
        changes = []
        for name in sorted({*now, *self._told}):
            seen = now.get(name)
            if _differ(seen, self._told.get(name)) and not _differ(seen, before.get(name)):
                found = _read(seen)
                if seen is not None and _differ(seen, glimpse(seen.folder, seen)):
                    continue  # it changed while it was read
                changes.append(Change(name, found))
                if seen is None:
                    del self._told[name]
                else:
                    self._told[name] = seen
        return changes


def _differ(one: Glimpse | None, other: Glimpse | None) -> bool:
    if one is None or other is None:
        return one is not other
    return one.signature != other.signature


def _read(seen: Glimpse | None) -> Entry | InvalidCard | None:
    try:
        return None if seen is None else entry_of(seen)
    except InvalidCard as error:
        return error
