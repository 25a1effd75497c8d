"""Many files, some at once; what is done stays done."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from camserve.client import (
    AsyncClient,
    ClientError,
    Refused,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from camserve.commands.batch_file import CannotWrite, FileRun, Options
from camserve.commands.exit_codes import ExitCode
from camserve.commands.files import Source
from camserve.commands.manifest import Manifest
from camserve.commands.outputs import write_atomically
from camserve.commands.progress import Reporter, reporter_of
from camserve.commands.service import client_options, document_of, exit_code_of, messages
from camserve.commands.tables import print_table
from camserve.commands.tally import Tally
from camserve.errors import ErrorCode

__all__ = ["SUMMARY", "run_batch"]

SUMMARY = "summary.json"
GRACE_S = 5.0
_TIMEOUT_S = 600.0
_RECONNECT_S = 60.0
_FIRST_CONTACT_S = 3.0
# refusals of what is asked of every file
_OF_THE_OPTIONS = (
    ErrorCode.MODEL_NOT_FOUND,
    ErrorCode.LAYER_NOT_FOUND,
    ErrorCode.CLASS_INDEX_OUT_OF_RANGE,
    ErrorCode.UNKNOWN_LABEL,
    ErrorCode.INVALID_EXPRESSION,
)


class _Stop(Exception):
    """The run ends before its last file."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def run_batch(
    chosen: argparse.Namespace, arguments: dict[str, Any], sources: list[Source]
) -> int:
    """Explain all that is not done yet; returns the exit code.

    Ctrl-C lets what is in flight finish for `GRACE_S`; a second one does not. A service that is
    away for longer than a minute, or that refuses the key, ends the run. Raises ClientError,
    OSError, ValueError before anything is explained.
    """
    options = client_options(chosen, timeout_s=_TIMEOUT_S, reconnect_s=_RECONNECT_S)
    # a run that has not begun has nothing to lose: what never answers is a wrong address
    async with AsyncClient(**options | {"reconnect_s": _FIRST_CONTACT_S}) as client:
        card = await client.model(arguments["model"])
    out = Path(chosen.out)
    await asyncio.to_thread(out.mkdir, parents=True, exist_ok=True)
    async with AsyncClient(**options) as client:
        asked = Options(
            arguments, chosen.mask, chosen.picture, with_map=chosen.map, version=card.version
        )
        tally = Tally(len(sources))
        with Manifest(out) as manifest, reporter_of(tally, silent=chosen.json) as reporter:
            files = FileRun(client, manifest, out, asked)
            batch = _Batch(files, tally, reporter, fail_fast=chosen.fail_fast)
            code = await batch.run(sources, chosen.concurrency)
    interrupted = code is ExitCode.INTERRUPTED
    write_atomically(out / SUMMARY, tally.json(interrupted=interrupted).encode() + b"\n")
    if chosen.json:
        sys.stdout.write(tally.json(interrupted=interrupted) + "\n")
    else:
        for line in tally.lines():
            print_table(line)
    if tally.left and code is not ExitCode.REFUSED and not chosen.json:
        again = shlex.join(["camserve", *chosen.given])
        messages().print(f"{tally.left} files are left; go on with: {again}")
    return code


class _Batch:
    """A run: tasks that take the next file each, until there is none or one says stop."""

    def __init__(
        self, files: FileRun, tally: Tally, reporter: Reporter, *, fail_fast: bool
    ) -> None:
        self._files = files
        self._tally = tally
        self._reporter = reporter
        self._fail_fast = fail_fast
        self._stopped = asyncio.Event()

    async def run(self, sources: list[Source], concurrency: int) -> ExitCode:
        queue = iter(sources)
        tasks = [asyncio.create_task(self._take(queue)) for _ in range(concurrency)]
        interrupted = False
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:  # Ctrl-C
            interrupted = True
            if (this := asyncio.current_task()) is not None:
                this.uncancel()
            self._stopped.set()
            self._reporter.say("finishing what is in flight; Ctrl-C again drops it")
        failures = await self._wind_down(tasks)
        for failure in failures:
            if isinstance(failure, _Stop):
                self._reporter.say(f"stopped: {failure}")
                return exit_code_of(failure.error)
            raise failure
        if interrupted:
            return ExitCode.INTERRUPTED
        return ExitCode.FAILED if self._tally.failed else ExitCode.OK

    async def _wind_down(self, tasks: list[asyncio.Task[None]]) -> list[Exception]:
        """Ends all tasks, those in flight after a while; returns what they raised."""
        self._stopped.set()
        await asyncio.wait(tasks, timeout=GRACE_S)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return [result for result in results if isinstance(result, Exception)]

    async def _take(self, queue: Iterator[Source]) -> None:
        for source in queue:
            if self._stopped.is_set():
                return
            await self._one(source)
            self._reporter.advance()

    async def _one(self, source: Source) -> None:
        try:
            is_new = await self._files.explain(source)
        except CannotWrite as error:
            raise _Stop(error) from error
        except (ClientError, OSError) as error:
            if _ends_the_run(error):
                raise _Stop(error) from error
            document = document_of(error)
            self._tally.fail(source.name, document)
            self._reporter.say(f"{source.name}: {document['detail']}")
            await self._files.note_failure(source, document)
            if self._fail_fast:
                raise _Stop(error) from error
        else:
            if is_new:
                self._tally.succeeded += 1
            else:
                self._tally.skipped += 1


def _ends_the_run(error: Exception) -> bool:
    """Whether every other file would meet the same."""
    if isinstance(error, Unreachable | UnexpectedAnswer | Unavailable | Unauthorized):
        return True
    return isinstance(error, Refused) and error.code in _OF_THE_OPTIONS
