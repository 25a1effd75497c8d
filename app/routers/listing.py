"""Recent explanations, for dashboards."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.documentation import CACHING, NOT_MODIFIED, header, problems
from app.messages import current_response
from app.query_strings import refuse_repeated
from app.representations import summary
from app.signatures import Signer
from app.state import State
from camserve.broker import Page, model_of
from camserve.contracts.base import Message
from camserve.contracts.explanations import ExplanationList
from camserve.contracts.states import State as States
from camserve.errors import InvalidRequest

__all__ = ["MOST", "check_cursor", "next_page", "router"]

router = APIRouter(prefix="/v1/explanations", tags=["explanations"])

MOST = 100
_SINGLE = ("model", "limit", "cursor")


class ListQuery(Message):
    """Which explanations, and how many of them."""

    model: str | None = Field(None, description="Only those of this model.")
    state: list[States] | None = Field(
        None, description="Only those in this state; may be repeated.", max_length=len(States)
    )
    limit: Annotated[int, Field(ge=1, le=MOST)] = Field(
        20, description="How many, at most; a page may hold fewer."
    )
    cursor: str | None = Field(None, description="`next_cursor` of the page before this one.")


@router.get(
    "",
    summary="List explanations",
    response_model=ExplanationList,
    responses={
        200: {
            "description": "A page of them, and where the next one is.",
            "headers": header("Link", *CACHING),
        },
        304: NOT_MODIFIED,
        **problems(404, 422, 503),
    },
)
async def list_explanations(
    request: Request, state: State, query: Annotated[ListQuery, Query()]
) -> Response:
    """Recent explanations, newest first, without their results.

    `next_cursor`, and the `Link` header, lead to the next page; a page may be short, even empty,
    and still have a next one. Kept are the newest ten thousand of each model, as long as they can
    be fetched.
    """
    for name in _SINGLE:
        refuse_repeated(request, name)
    if query.model is not None:
        await state.catalog.card(query.model)
    if query.cursor is not None:
        check_cursor(query.cursor)
    page = await state.recent.page(
        query.limit,
        model=query.model,
        states=frozenset(query.state or States),
        cursor=query.cursor,
    )
    signer = await state.signer()
    headers = next_page(request, page.cursor)
    # in a thread: a hundred documents of many inputs take a while to read
    return await asyncio.to_thread(_listed, request, page, signer, headers)


def _listed(
    request: Request, page: Page, signer: Signer | None, headers: dict[str, str]
) -> Response:
    explanations = tuple(summary(record, signer) for record in page.jobs)
    message = ExplanationList(explanations=explanations, next_cursor=page.cursor)
    return current_response(request, message, headers)


def next_page(request: Request, cursor: str | None) -> dict[str, str]:
    """The header that leads to the page after this one."""
    if cursor is None:
        return {}
    following = request.url.include_query_params(cursor=cursor)
    return {"Link": f'<{following.path}?{following.query}>; rel="next"'}


def check_cursor(cursor: str) -> None:
    """Raises InvalidRequest for what no page gave."""
    try:
        model_of(cursor)
    except ValueError as error:
        raise InvalidRequest(
            "cursor: not the next_cursor of a page; leave it out for the first one", field="cursor"
        ) from error
