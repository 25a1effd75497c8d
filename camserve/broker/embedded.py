"""A private Redis or Valkey server for one machine: no port, no set-up, data kept in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from camserve.broker.folder_lock import FolderLock
from camserve.broker.server_binary import EmbeddedServerError, find_server
from camserve.broker.server_process import ServerProcess, fingerprint_of

__all__ = ["EmbeddedServer", "EmbeddedServerError"]

_START_PATIENCE_S: Final = 60.0  # reading a large append-only file takes its time
_STOP_PATIENCE_S: Final = 10.0
_LOOK_S: Final = 0.01
_SOCKET: Final = "server.sock"
_LONGEST_SOCKET_PATH: Final = 100  # bytes; the kernel's limit is 104 (macOS) or 108 (Linux)


class EmbeddedServer:
    """Starts, adopts and ends the server of one state folder.

    folder: made with mode 0700 if missing. It keeps the data (append-only file, synced each
        second), a log, and while the server runs a socket, a pid file and a lock.
    binary: the server program; by default what `find_server` finds.

    A server that outlived a killed owner is adopted if it answers, else ended. Methods block
    shortly; all raise EmbeddedServerError with the way out.
    """

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        self._folder = folder.absolute()
        self._binary = binary
        self._lock = FolderLock(self._folder / "owner.lock")
        self._pid_file = self._folder / "server.json"
        self._log = self._folder / "server.log"
        self._socket: Path | None = None
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """`unix://` and the path of the socket, from `start` to `stop`."""
        if self._socket is None:
            raise EmbeddedServerError("the embedded server was not started")
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def is_alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.is_alive()

    async def wait(self) -> None:
        """Returns when the server process is gone, whoever ended it."""
        if self._process is not None:
            await self._process.wait()

    def start(self) -> None:
        """Returns when the server answers. Starts it again at the same `url` if it died."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        if not self._lock.held:
            owner = self._lock.acquire()
            if owner is not None:
                raise EmbeddedServerError(
                    f"another camserve runs from {self._folder}, pid {owner or 'unknown'}: "
                    "stop it, or use another folder"
                )
        if self.is_alive():
            return
        try:
            if not self._adopt():
                self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shuts the server down cleanly. No process, socket, pid or lock file is left."""
        if not self._lock.held:
            return
        if self._process is not None:
            self._process.end(_STOP_PATIENCE_S)
        self._process = None
        self._forget_socket()
        self._pid_file.unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _adopt(self) -> bool:
        """Takes over a server that answers on our socket; ends one that does not answer."""
        pid, fingerprint, self._socket = self._read_pid_file()
        answering = self._answering_pid()
        if answering is not None:
            self._process = ServerProcess(answering, fingerprint_of(answering) or "", child=None)
            return True
        if pid and fingerprint_of(pid) == fingerprint:
            ServerProcess(pid, fingerprint, child=None).end(_STOP_PATIENCE_S)
        return False

    def _launch(self) -> None:
        binary = self._binary or find_server()
        if self._socket is None or not self._is_usable(self._socket):
            self._socket = self._choose_socket()
        self._socket.unlink(missing_ok=True)
        self._process = ServerProcess.launch([str(binary), *self._arguments()], self._log)
        self._write_pid_file(self._process)
        self._await_answer(self._process)

    def _arguments(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "600",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _await_answer(self, process: ServerProcess) -> None:
        end_s = time.monotonic() + _START_PATIENCE_S
        while self._answering_pid() != process.pid:
            if not process.is_alive():
                raise EmbeddedServerError(f"the server ended at once: {self._last_words()}")
            if time.monotonic() > end_s:
                raise EmbeddedServerError(f"the server does not answer; see {self._log}")
            time.sleep(_LOOK_S)

    def _answering_pid(self) -> int | None:
        """The process behind the socket, once it has loaded its data; None if none answers."""
        if self._socket is None or not self._socket.exists():
            return None
        client = redis.Redis(unix_socket_path=str(self._socket), socket_timeout=2.0, protocol=2)
        with contextlib.closing(client), contextlib.suppress(redis.RedisError, OSError):
            client.set_retry(Retry(NoBackoff(), 0))
            client.ping()
            return int(client.info("server")["process_id"])
        return None

    def _choose_socket(self) -> Path:
        inside = self._folder / _SOCKET
        if self._is_usable(inside):
            return inside
        return Path(tempfile.mkdtemp(prefix="camserve-")) / _SOCKET  # mode 0700

    @staticmethod
    def _is_usable(socket: Path) -> bool:
        short = len(os.fsencode(socket)) <= _LONGEST_SOCKET_PATH
        return short and socket.parent.is_dir()

    def _forget_socket(self) -> None:
        if self._socket is None:
            return
        self._socket.unlink(missing_ok=True)
        if self._socket.parent != self._folder:
            shutil.rmtree(self._socket.parent, ignore_errors=True)
        self._socket = None

    def _read_pid_file(self) -> tuple[int, str, Path]:
        """Pid (0 if unknown), fingerprint and socket of the server that was started last."""
        try:
            record = json.loads(self._pid_file.read_text())
            return int(record["pid"]), str(record["fingerprint"]), Path(record["socket"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, "", self._folder / _SOCKET

    def _write_pid_file(self, process: ServerProcess) -> None:
        record = {
            "pid": process.pid,
            "fingerprint": process.fingerprint,
            "socket": str(self._socket),
        }
        fresh = self._pid_file.with_suffix(".new")
        fresh.write_text(json.dumps(record))
        fresh.replace(self._pid_file)  # a reader sees the old file or the new one

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:]) or f"see {self._log}"
