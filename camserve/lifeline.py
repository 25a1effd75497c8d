"""A pipe that tells a child process that its parent is gone, however the parent died.

The parent holds the writing end and never writes; the kernel closes it with the parent, even after
kill -9, and the child's read returns. No polling, no signals to lose.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Lifeline", "watch"]

_VARIABLE = "_CAMSERVE_LIFELINE_FD"


class Lifeline:
    """The parent's side. Pass `fds` as `pass_fds` and `environment` to each child."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    @property
    def fds(self) -> tuple[int, ...]:
        return (self._read,)

    @property
    def environment(self) -> dict[str, str]:
        return {_VARIABLE: str(self._read)}

    def cut(self) -> None:
        """Tell all children at once; safe to call twice."""
        for name in ("_write", "_read"):
            fd = getattr(self, name)
            if fd >= 0:
                setattr(self, name, -1)
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()


def watch(parent_is_gone: Callable[[], None]) -> bool:
    """The child's side: calls back, from a daemon thread, when the parent is gone.

    Returns False, and watches nothing, in a process that was started without a lifeline.
    """
    # taken out of the environment: the fd is not inherited by this process's own children
    number = os.environ.pop(_VARIABLE, None)
    if number is None:
        return False
    fd = int(number)
    os.set_inheritable(fd, False)  # noqa: FBT003 - positional only

    def wait() -> None:
        try:
            while os.read(fd, 1):
                pass
        except OSError:  # not a descriptor of ours: as good as gone
            pass
        parent_is_gone()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
    return True
