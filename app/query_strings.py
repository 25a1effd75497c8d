"""What a query string may not say."""

from __future__ import annotations

from fastapi import Request

from camserve.errors import InvalidRequest, near_names, shortened

__all__ = ["refuse_repeated", "refuse_repeated_options", "refuse_unknown_options"]


def refuse_repeated(request: Request, name: str) -> None:
    """Raises InvalidRequest for an option that is given several times: which one is meant?"""
    times = len(request.query_params.getlist(name))
    if times > 1:
        name = shortened(name)
        raise InvalidRequest(f"{name} is given {times} times", field=name)


async def refuse_repeated_options(request: Request) -> None:
    """Of a call all of whose options are single ones; FastAPI would take the last."""
    for name in request.query_params:
        refuse_repeated(request, name)


async def refuse_unknown_options(request: Request) -> None:
    """Of a call whose options are parameters of their own: FastAPI would ignore a misspelt one."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            near = near_names(name, known)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            short = shortened(name)
            raise InvalidRequest(f"unknown query parameter {short!r}{hint}", field=short, near=near)
        refuse_repeated(request, name)
