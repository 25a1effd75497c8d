"""Connections to the server, and the one place where its absence becomes QueueUnavailable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from camserve.errors import QueueUnavailable

__all__ = [
    "LONGEST_BLOCK_S",
    "connect",
    "is_outage",
    "outage_or_other",
    "outages_as_unavailable",
]

T = TypeVar("T")

SOCKET_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
LONGEST_BLOCK_S: Final = 2.0
"""A blocking read must end well before the socket gives up on its answer."""
MAX_CONNECTIONS: Final = 64

_SCHEMES = ("redis://", "rediss://", "unix://")
# that of a script: the server has restarted again since it was taught them
_OUTAGES = (ClusterDownError, MasterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError)
_OUTAGE_CODES = ("LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "OOM ", "BUSY ")


class _RetryUnlessSlow(Retry):
    """Not after a timeout: a server that hangs would be waited for three times.

    A timeout while a new connection is greeted is a ConnectionError, too, but for its cause.
    """

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[[Exception], Any] | Callable[[Exception, int], Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - the interface is redis-py's
    ) -> T:
        def is_quick(error: Exception) -> bool:
            is_slow = isinstance(error.__cause__, RedisTimeoutError)
            return not is_slow and (is_retryable is None or is_retryable(error))

        return await super().call_with_retry(do, fail, is_quick, with_failure_count)


def connect(url: str) -> Redis:
    """A client for `url` (redis://, rediss:// or unix://). It connects on first use.

    A broken connection is replaced and its command sent again twice, within half a second or so:
    every command of the queue may be repeated. A server that hangs is given up after
    SOCKET_TIMEOUT_S. More callers than connections wait their turn.
    Options of redis-py can be given in the query of the URL.
    Raises ValueError for another scheme.
    """
    if not url.startswith(_SCHEMES):
        raise ValueError(f"not a Redis URL: {url!r} (use one of {', '.join(_SCHEMES)})")
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=SOCKET_TIMEOUT_S,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=_RetryUnlessSlow(ExponentialBackoff(cap=0.2, base=0.02), 2, (RedisConnectionError,)),
        decode_responses=False,
        protocol=2,
    )
    return Redis.from_pool(pool)


def is_outage(error: Exception) -> bool:
    """Whether an error says that the server is away or cannot write now, and not that we erred."""
    if isinstance(error, ResponseError):
        # An error inside a script keeps the server's code somewhere in its sentence.
        return isinstance(error, _OUTAGES) or any(code in str(error) for code in _OUTAGE_CODES)
    return isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError))


@contextmanager
def outages_as_unavailable() -> Iterator[None]:
    """Turns errors of the connection into QueueUnavailable; lets all others through."""
    try:
        yield
    except Exception as error:
        if is_outage(error):
            raise QueueUnavailable from error
        raise


def outage_or_other(error: Exception) -> Exception:
    """QueueUnavailable for an error of the connection; any other as it is."""
    if not is_outage(error):
        return error
    outage = QueueUnavailable()
    outage.__cause__ = error
    return outage
