"""A server process that may be our child, or an orphan of an owner that was killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

__all__ = ["ServerProcess", "fingerprint_of"]

_LOOK_S = 0.01


def fingerprint_of(pid: int) -> str | None:
    """When process `pid` started; None if it does not run.

    With the pid it names one process for good: a reused pid has another start.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            text = stat.read_text()
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()  # the name before it may hold anything
        return None if fields[0] in "ZX" else fields[19]
    listing = subprocess.run(  # noqa: S603 - macOS has no /proc
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return None if not listing or listing[0].startswith("Z") else " ".join(listing[1:])


class ServerProcess:
    """Watches and ends one process, be it a child or not."""

    def __init__(self, pid: int, fingerprint: str, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.fingerprint = fingerprint
        self._child = child

    @classmethod
    def launch(cls, command: list[str], log: Path) -> ServerProcess:
        """Starts `command` in a session of its own, so that Ctrl-C in the terminal spares it."""
        with log.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603 - the command is ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(child.pid, fingerprint_of(child.pid) or "", child)

    def is_alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return fingerprint_of(self.pid) == self.fingerprint

    def end(self, patience_s: float) -> None:
        """Asks it to shut down, which saves its data; kills it after `patience_s`. Waits."""
        for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
            if not self.is_alive():
                return
            # A stopped process would never see the signal.
            for one in (number, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, one)
            end_s = time.monotonic() + wait_s
            while self.is_alive() and time.monotonic() < end_s:
                time.sleep(_LOOK_S)

    async def wait(self) -> None:
        """Returns when the process is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not on Linux, or gone already
            while self.is_alive():  # noqa: ASYNC110 - there is no event to await
                await asyncio.sleep(_LOOK_S)
            return
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(handle, gone.set)
        try:
            if self.is_alive():
                await gone.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
