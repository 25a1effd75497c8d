"""Who owns a state folder: second owners, killed ones, and many at once."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from camserve.broker.embedded import EmbeddedServer, EmbeddedServerError
from camserve.broker.folder_lock import FolderLock
from camserve.broker.server_process import fingerprint_of
from tests.broker.state_folder import left_in, ping

OWNER = """
import os, signal, sys
from pathlib import Path
from camserve.broker.embedded import EmbeddedServer
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted\\n"))
server = EmbeddedServer(Path(sys.argv[1]), Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
for line in sys.stdin:
    pass
server.stop()
"""


@pytest.fixture
def owner(folder: Path, binary: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the server, in a session of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), str(binary)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def test_a_second_owner_is_told_who_is_first(
    folder: Path, binary: Path, owner: subprocess.Popen[str]
):
    assert owner.stdout is not None
    server_pid = int(owner.stdout.readline())
    second = EmbeddedServer(folder, binary)
    with pytest.raises(EmbeddedServerError, match=f"another camserve .* pid {owner.pid}:"):
        second.start()
    second.stop()  # must not touch what is not its own
    assert psutil.pid_exists(server_pid)
    assert ping(f"unix://{folder}/server.sock")
    owner.communicate("", timeout=60)
    assert not psutil.pid_exists(server_pid)
    assert left_in(folder) == set()


def test_an_orphan_is_adopted(folder: Path, binary: Path, owner: subprocess.Popen[str]):
    assert owner.stdout is not None
    orphan = int(owner.stdout.readline())
    with redis.Redis.from_url(f"unix://{folder}/server.sock") as client:
        client.set("key", "value")
        owner.kill()
        owner.wait()
        with EmbeddedServer(folder, binary) as server:
            assert server.pid == orphan
            assert server.is_alive()
            assert client.get("key") == b"value"
            waiting = threading.Thread(target=lambda: asyncio.run(server.wait()))
            waiting.start()
        waiting.join(60)
        assert not waiting.is_alive()
    assert fingerprint_of(orphan) is None
    assert left_in(folder) == set()


def test_an_orphan_is_adopted_even_without_its_pid_file(
    folder: Path, binary: Path, owner: subprocess.Popen[str]
):
    """The owner may be killed between the start of the server and the writing of the file."""
    assert owner.stdout is not None
    orphan = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    (folder / "server.json").unlink()
    with EmbeddedServer(folder, binary) as server:
        assert server.pid == orphan


def test_an_orphan_that_does_not_answer_is_ended(
    folder: Path, binary: Path, owner: subprocess.Popen[str]
):
    assert owner.stdout is not None
    orphan = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    (folder / "server.sock").unlink()
    with EmbeddedServer(folder, binary) as server:
        assert server.pid != orphan
        assert fingerprint_of(orphan) is None
        assert ping(server.url)


def test_a_pid_file_of_long_ago_does_no_harm(folder: Path, binary: Path):
    """Its pid may belong to somebody else by now: here, to ourselves."""
    folder.mkdir()
    for text in (
        f'{{"pid": {os.getpid()}, "fingerprint": "0", "socket": "{folder}/server.sock"}}',
        '{"pid": 999999999, "fingerprint": "0", "socket": "/nonexistent/server.sock"}',
        "not JSON",
    ):
        (folder / "server.json").write_text(text)
        (folder / "owner.lock").write_text("1\n")
        with EmbeddedServer(folder, binary) as server:
            assert ping(server.url)
            assert server.url == f"unix://{folder}/server.sock"
        assert left_in(folder) == set()


def test_ctrl_c_in_the_terminal_spares_the_server(
    folder: Path, binary: Path, owner: subprocess.Popen[str]
):
    assert owner.stdout is not None
    server_pid = int(owner.stdout.readline())
    os.killpg(owner.pid, signal.SIGINT)  # what a terminal does
    assert owner.stdout.readline() == "interrupted\n"
    assert os.getpgid(server_pid) != os.getpgid(owner.pid)
    assert ping(f"unix://{folder}/server.sock")


def test_of_many_that_start_at_once_one_wins(folder: Path, binary: Path):
    servers = [EmbeddedServer(folder, binary) for _ in range(6)]
    refused: list[EmbeddedServer] = []

    def start(server: EmbeddedServer) -> None:
        try:
            server.start()
        except EmbeddedServerError:
            refused.append(server)

    threads = [threading.Thread(target=start, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    (winner,) = set(servers) - set(refused)
    assert ping(winner.url)
    winner.stop()
    assert left_in(folder) == set()


def test_a_lock_whose_file_was_removed_in_between_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its last owner unlinks the file between our open and our flock."""
    path, flock, calls = tmp_path / "lock", fcntl.flock, []

    def late_flock(handle: int, how: int) -> None:
        if not calls:
            path.unlink()
        calls.append(handle)
        flock(handle, how)

    monkeypatch.setattr("fcntl.flock", late_flock)
    lock = FolderLock(path)
    assert lock.acquire() is None
    assert len(calls) == 2
    assert FolderLock(path).acquire() == os.getpid()
    lock.release()
    assert not path.exists()
