"""What a query string may not say."""

from __future__ import annotations

from fastapi import Request

from camserve.errors import InvalidRequest, shortened

__all__ = ["refuse_repeated", "refuse_repeated_options"]


def refuse_repeated(request: Request, name: str) -> None:
    """Raises InvalidRequest for an option that is given several times: which one is meant?"""
    times = len(request.query_params.getlist(name))
    if times > 1:
        name = shortened(name)
        raise InvalidRequest(f"{name} is given {times} times", field=name)


def refuse_repeated_options(request: Request) -> None:
    """Of a call all of whose options are single ones; FastAPI would take the last."""
    for name in request.query_params:
        refuse_repeated(request, name)
