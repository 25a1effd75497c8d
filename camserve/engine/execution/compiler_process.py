"""Compiles one exported program. Run as a script, in a process of its own; see `compiling.py`."""

from __future__ import annotations

import os
import sys
import threading

import torch

_LEAST_PRIORITY = 19


def main(program: str, package: str, threads: int) -> None:
    """program: a file of `torch.export.save`. package: the file to write."""
    os.nice(_LEAST_PRIORITY)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)  # the kernels have it built in
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - there is no other name for it
            torch.export.load(program), package_path=package, inductor_configs={"freezing": True}
        )


def _end_with_parent() -> None:
    """Nobody waits for the result once the other end of the pipe is closed."""
    os.read(sys.stdin.fileno(), 1)  # not through a buffer, whose lock would outlast the thread
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
