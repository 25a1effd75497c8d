"""Front ends that ask for keys, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from camserve.api_keys import Scope, new_key
from camserve.key_file import rewriting
from tests.app.front import Front, running_front

__all__ = ["add_key", "guarded_front", "remove_key"]


def add_key(path: Path, name: str, *scopes: Scope, rate: int | None = None) -> str:
    """A fresh key, added to the file."""
    secret, key = new_key(name, scopes or (Scope.EXPLAIN,), rate)
    with rewriting(path) as keys:
        keys[name] = key
    return secret


def remove_key(path: Path, name: str) -> None:
    with rewriting(path) as keys:
        del keys[name]


@asynccontextmanager
async def guarded_front(
    redis_url: str, path: Path, key: str | None = None, **settings: Any
) -> AsyncIterator[Front]:
    """A front end with the keys of a file, with a model; its client sends `key`, if any."""
    async with running_front(redis_url, api_keys_file=path, **settings) as front:
        await front.publish()
        if key is not None:
            front.client.headers["Authorization"] = f"Bearer {key}"
        yield front
