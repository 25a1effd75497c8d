"""The metrics of several front end processes that answer at one address, in a folder of files."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["DIRECTORY", "SeveralProcesses"]

DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client knows, when it is imported, that there are several."""

_FILE: Final = re.compile(r"(?P<kind>counter|histogram|gauge_\w+)_(?P<pid>\d+)\.db")
_LOCK: Final = "lock"
_GONE: Final = "gone"


class SeveralProcesses:
    """Collects what all processes that measure in the folder have counted, living and dead.

    The files of dead processes are added into one, lest they pile up where a process dies again and
    again; what they measured of the moment is forgotten with them. Whoever is scraped does it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._fold({str(os.getpid())})  # of a predecessor that had the same number

    def collect(self) -> Iterator[Metric]:
        with self._locked():
            self._fold({pid for pid in self._pids() if not _lives(int(pid))})
            collector = MultiProcessCollector(None, str(self._folder))  # type: ignore[no-untyped-call]
            yield from collector.collect()  # type: ignore[no-untyped-call]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else reads or folds meanwhile: what is in two files would be told twice."""
        with (self._folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _pids(self) -> set[str]:
        found = (_FILE.fullmatch(file.name) for file in self._folder.glob("*.db"))
        return {match["pid"] for match in found if match}

    def _fold(self, pids: set[str]) -> None:
        for kind in ("counter", "histogram"):
            dead = [path for pid in pids if (path := self._folder / f"{kind}_{pid}.db").exists()]
            if dead:
                _add_up(dead, self._folder / f"{kind}_{_GONE}.db")
        for pid in pids:
            for path in self._folder.glob(f"gauge_*_{pid}.db"):
                path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _add_up(files: list[Path], into: Path) -> None:
    """Adds files into one, and removes them. A kill in between leaves some of them counted twice,
    and not counters that fall, which would be read as all beginning anew."""
    fresh = into.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    sources = [*files, *([into] if into.exists() else [])]
    sums: dict[str, float] = {}
    for source in sources:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(source)):  # type: ignore[no-untyped-call]
            sums[key] = sums.get(key, 0.0) + value
    values = MmapedDict(str(fresh))  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        values.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    values.close()  # type: ignore[no-untyped-call]
    fresh.replace(into)
    for path in files:
        path.unlink()
