"""Nobody gets past without the right key, before a byte of the body is read."""

from __future__ import annotations

from typing import NamedTuple

from fastapi import Request
from starlette._utils import get_route_path  # the very path that the router goes by
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access import explanation_of_link, required_scope
from app.credentials import presented_key
from app.problems import problem_response
from app.signatures import without_signature
from app.state import AppState
from camserve.api_keys import ApiKey
from camserve.api_keys import Scope as KeyScope
from camserve.errors import (
    ApiKeyMissing,
    ApiKeyUnknown,
    CamserveError,
    ScopeMissing,
    SignatureInvalid,
)
from camserve.key_file import KeyFile

__all__ = ["Guard", "caller_name"]


def caller_name(request: Request) -> str:
    """Of the API key that the request came with; empty where no keys are configured."""
    caller: ApiKey | None = request.state.caller
    return caller.name if caller else ""


class Guard:
    """ASGI middleware around all routes, so that none can be forgotten.

    Puts the caller's `ApiKey` into the request's state as `caller`; None where no keys are
    configured, or the call came by a signed link, or is open and came without a key. Such a link's
    signature goes no further: it is no option of the call.
    """

    def __init__(self, app: ASGIApp, keys: KeyFile | None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        link = None
        if explanation_id := explanation_of_link(scope["method"], get_route_path(scope)):
            query, signatures = without_signature(scope["query_string"])
            scope = {**scope, "query_string": query}
            link = _Link(explanation_id, signatures) if signatures else None
        try:
            scope["state"]["caller"] = await self._admit(scope, link)
        except CamserveError as error:
            await problem_response(error, Request(scope))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, link: _Link | None) -> ApiKey | None:
        """Who calls. Raises what the caller is to be told."""
        needed = required_scope(scope["method"], get_route_path(scope))
        if self._keys is None:
            return None
        if needed is None:
            return _known(self._keys, scope)
        try:
            return _find(self._keys, scope, needed)
        except (ApiKeyMissing, ApiKeyUnknown):
            if link is None:
                raise
        await link.check(scope["state"]["parts"])
        return None


class _Link(NamedTuple):
    """What a call shows instead of a key."""

    explanation_id: str
    signatures: list[str]

    async def check(self, state: AppState) -> None:
        """Raises SignatureInvalid, for several ones too, and QueueUnavailable."""
        signer = await state.signer()
        if signer is None or len(self.signatures) != 1:
            raise SignatureInvalid
        if not signer.has_signed(self.explanation_id, self.signatures[0]):
            raise SignatureInvalid


def _known(keys: KeyFile, scope: Scope) -> ApiKey | None:
    """Who makes a call that is open to everybody, if a key says so."""
    try:
        return keys.ring.find(presented_key(scope["headers"]))
    except (ApiKeyMissing, ApiKeyUnknown):
        return None


def _find(keys: KeyFile, scope: Scope, needed: KeyScope) -> ApiKey:
    caller = keys.ring.find(presented_key(scope["headers"]))
    if caller is None:
        raise ApiKeyUnknown(
            "the API key is not known here: it was mistyped, or removed; ask the operator for a "
            "new one (camserve keys add NAME)"
        )
    if not caller.may(needed):
        raise ScopeMissing(caller.name, needed)
    return caller
