"""One part of camserve as a process of its own: started, listened to, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field

from camserve.lifeline import Lifeline

__all__ = ["Part", "say"]

LONGEST_LINE = 1 << 16  # bytes; a longer one is shown in pieces
APART_S = 0.5  # of two signals pending at once, the first may come last
HURRY_S = 10.0


@dataclass
class Part:
    """One long-running child process; its output is passed on with `label` in front."""

    label: str
    module: str
    lifeline: Lifeline
    environment: dict[str, str]
    process: asyncio.subprocess.Process | None = field(default=None)

    async def run(self, patience_s: float) -> int:
        """Run it once, to its end; returns its exit code.

        Its own children, which end with it, get `patience_s` to finish what they are doing.
        """
        # a pipe of our own: that of asyncio makes wait() wait for every holder of its other end
        reading, writing = os.pipe()
        output = asyncio.create_task(self._pass_on(reading))
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.module,
                stdout=writing,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=self.lifeline.fds,
                env=os.environ | self.environment | self.lifeline.environment,
                start_new_session=True,  # Ctrl-C reaches only us, and we stop the parts in order
            )
        finally:
            os.close(writing)
        code = await self.process.wait()
        await asyncio.wait([output], timeout=patience_s)
        # a grandchild that hangs would hold the pipe, and the device, for ever
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await output
        return code

    async def _pass_on(self, pipe: int) -> None:
        """Line by line, however long a line is: progress bars and tracebacks of models included."""
        output = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(pipe, "rb")
        )
        rest = b""
        while chunk := await output.read(LONGEST_LINE):
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(rest) >= LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._say(line)
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        say(f"{self.label}{line.decode(errors='replace').rstrip()}")

    async def stop(self, patience_s: float, hurried: asyncio.Event) -> None:
        """Have it end; kill it when it has not after `patience_s`, or soon after `hurried`."""
        if self.process is None or self.process.returncode is not None:
            return
        ended = asyncio.create_task(self.process.wait())
        hurry = asyncio.create_task(hurried.wait())
        self._signal(signal.SIGTERM)
        await asyncio.wait([ended, hurry], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done():
            await asyncio.wait([ended], timeout=APART_S)
            self._signal(signal.SIGINT)  # after SIGTERM: at once
            await asyncio.wait([ended], timeout=HURRY_S)
        hurry.cancel()
        if not ended.done():
            self._signal(signal.SIGKILL)
        await ended

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the launcher's user reads a terminal
