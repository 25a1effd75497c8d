"""What processes and Redis hold, over time, and whether that grows."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from statistics import median

import psutil
import redis

from tests.faults.scene import Scene

__all__ = ["Usage"]

_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}-[a-z0-9._-]+|(?<=:)[0-9a-f]{16,}|(?<=:)key-\d+")


@dataclass
class Usage:
    """memory: resident MB by process; keys: how many keys of each kind, and how long each is that
    has no id in its name. All with the seconds at which they were looked at."""

    scene: Scene
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    _started_s: float = field(default_factory=time.monotonic)
    _looked_s: float = 0.0

    def look(self) -> None:
        self._looked_s = at_s = time.monotonic() - self._started_s
        for host in self.scene.hosts:
            for one in host.family():
                name = f"{host.name} {one.pid}"
                self.memory[name].append((at_s, one.memory_info().rss / 1e6))
        resident = psutil.Process(self.scene.server.pid).memory_info().rss
        self.memory["redis"].append((at_s, resident / 1e6))
        for kind, count in _keys(self.scene.store).items():
            self.keys[kind].append((at_s, count))

    def lasts(self, series: list[tuple[float, float]]) -> bool:
        """Whether it was there at the last look: a compiler, which grows, is there for a minute."""
        return series[-1][0] == self._looked_s

    @staticmethod
    def growth(series: list[tuple[float, float]]) -> tuple[float, float]:
        """Medians of the first and of the last third of what came after a warm-up of a quarter."""
        warm = series[len(series) // 4 :]
        third = max(len(warm) // 3, 1)
        return median(v for _, v in warm[:third]), median(v for _, v in warm[-third:])


def _keys(store: redis.Redis) -> Counter[str]:
    found: Counter[str] = Counter()
    lengths = {"hash": store.hlen, "zset": store.zcard, "set": store.scard, "stream": store.xlen}
    for raw in store.scan_iter(count=1000):
        name = raw.decode(errors="replace")
        kind = _ID.sub("*", name)
        found[kind] += 1
        if kind == name and (length := lengths.get(store.type(raw).decode())):
            found[f"length of {name}"] = length(raw)
    return found
