"""Threads that compute beside the one that explains, and leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_a_thread_that_ends"]

Result = TypeVar("Result")


def in_a_thread_that_ends(call: Callable[[], Result], name: str) -> asyncio.Future[Result]:
    """Not one of the event loop's own, which asyncio waits for at the end: a download may hang.

    Nor one that stays. What computes in a thread leaves a team of OpenMP threads to it, and where
    teams together outnumber the cores, libgomp has all of them sleep between two parallel regions:
    the thread that explains would take a third longer for each batch.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix=name)
    running = asyncio.get_running_loop().run_in_executor(thread, call)
    thread.shutdown(wait=False)
    return running
