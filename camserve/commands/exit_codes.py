"""What a command's exit code says to a script."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Documented in docs/client.md."""

    OK = 0
    FAILED = 1
    """An explanation failed, or some of a folder's did."""
    USAGE = 2
    """The command line, a setting or a file of this machine is at fault."""
    UNAVAILABLE = 3
    """The service cannot be reached, or cannot do it now."""
    REFUSED = 4
    """The service refused the request."""
    INTERRUPTED = 130
    """By Ctrl-C."""
