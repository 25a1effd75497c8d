"""API keys: what one looks like, what is kept of it, and the file that holds them.

A key is 256 random bits, shown once, behind a prefix that secret scanners recognise. Kept is its
SHA-256: of that many random bits no slow hash is needed, nobody can try them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "LONGEST_KEY",
    "NAME",
    "PREFIX",
    "ApiKey",
    "KeyRing",
    "Scope",
    "digest_of",
    "new_key",
    "parse_keys",
    "render_keys",
]

PREFIX: Final = "camserve_"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""No colon, space or dot: names go into Redis keys, headers and logs as they are."""
LONGEST_KEY: Final = 256
"""Characters. What is longer is no key, and not worth a hash."""
_BITS: Final = 256

_HEAD: Final = """\
# API keys of camserve. Only their hashes: no key can be read from here.
# Written by `camserve keys add|remove`; running front ends read it again when it changes.
"""


class Scope(StrEnum):
    """What a key may do."""

    METRICS = "metrics"
    """Read the metrics: what a scraper needs, whose configuration others may read."""
    EXPLAIN = "explain"
    """Ask for explanations and predictions, and read everything."""
    ADMIN = "admin"
    """All of that, and change the service: load and unload models."""


_INCLUDED_IN: Final = {
    Scope.METRICS: frozenset(Scope),
    Scope.EXPLAIN: frozenset({Scope.EXPLAIN, Scope.ADMIN}),
    Scope.ADMIN: frozenset({Scope.ADMIN}),
}


class ApiKey(BaseModel):
    """What is kept of one key. Raises ValidationError for a name or hash that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: date
    rate_limit_per_minute: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    """Its own limit; None for that of the settings."""

    def may(self, scope: Scope) -> bool:
        return not _INCLUDED_IN[scope].isdisjoint(self.scopes)


class KeyRing:
    """The keys of one file, to be asked by what a client presents."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, presented: bytes) -> ApiKey | None:
        """The key that these very bytes are. As long for a near miss as for any other."""
        if len(presented) > LONGEST_KEY:
            return None
        digest = digest_of(presented)
        found = None
        for key in self._keys:  # all of them: how long it takes says nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


def digest_of(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def new_key(
    name: str, scopes: Iterable[Scope], rate_limit_per_minute: int | None = None
) -> tuple[str, ApiKey]:
    """A fresh key as its owner gets it, and what is kept of it.

    Raises ValueError for a name or limit that is none.
    """
    secret = f"{PREFIX}{secrets.token_hex(_BITS // 8)}"
    try:
        kept = ApiKey(
            name=name,
            scopes=frozenset(scopes),
            sha256=digest_of(secret.encode()),
            created=datetime.now(UTC).date(),
            rate_limit_per_minute=rate_limit_per_minute,
        )
    except ValidationError as error:
        raise ValueError(_first_fault(error)) from None
    return secret, kept


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """The keys that a file holds. Raises ValueError, which repeats nothing but names that are some:
    somebody may have put a key there where its hash belongs."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML ({error})") from None
    tables = document.pop("keys", {})
    if document:
        raise ValueError("there is more than the tables [keys.NAME]")
    if not isinstance(tables, dict):
        raise ValueError("keys are tables [keys.NAME]")  # noqa: TRY004 - of a file, not of a caller
    keys = tuple(_parse(n, name, table) for n, (name, table) in enumerate(tables.items(), 1))
    names: dict[str, str] = {}
    for key in keys:
        if (other := names.setdefault(key.sha256, key.name)) != key.name:
            raise ValueError(f"{other!r} and {key.name!r} are the same key")
    return keys


def _parse(number: int, name: str, table: Any) -> ApiKey:
    where = f"[keys.{name}]" if NAME.fullmatch(name) else f"key number {number}"
    if not isinstance(table, Mapping) or "name" in table:
        raise ValueError(f"{where} is a table of scopes, sha256 and created")
    try:
        return ApiKey.model_validate({**table, "name": name})
    except ValidationError as error:
        raise ValueError(f"{where}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"beside {', '.join(_REMEDIES)} there is nothing to say"
    return f"{field}: {first['msg'] if first['type'] == 'missing' else _REMEDIES[field]}"


_REMEDIES: Final = {
    "name": "begins with a letter or digit, and has up to 64 letters, digits, - and _",
    "scopes": f"a list of some of {', '.join(Scope)}",
    "sha256": "the SHA-256 of the key in 64 hexadecimal digits, as `camserve keys add` writes it",
    "created": "a date, as in 2026-01-31",
    "rate_limit_per_minute": "a whole number from 1 to 1000000",
}


def render_keys(keys: Iterable[ApiKey]) -> str:
    """The file that `parse_keys` reads."""
    return _HEAD + "".join(_render(key) for key in keys)


def _render(key: ApiKey) -> str:
    # the strings have no character that JSON and TOML would write differently
    lines = [
        f"[keys.{key.name}]",
        f"scopes = {json.dumps(sorted(key.scopes))}",
        f"sha256 = {json.dumps(key.sha256)}",
        f"created = {key.created.isoformat()}",
    ]
    if key.rate_limit_per_minute is not None:
        lines.append(f"rate_limit_per_minute = {key.rate_limit_per_minute}")
    return "\n" + "\n".join(lines) + "\n"
