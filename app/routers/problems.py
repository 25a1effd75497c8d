"""A page for each problem type, so that the `type` of a problem leads somewhere."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.problem_texts import ADVICE, TITLE
from app.problems import STATUS
from camserve.errors import ErrorCode, Failure

__all__ = ["router"]

router = APIRouter(prefix="/problems", include_in_schema=False)


@router.get("/{code}")
async def explain_problem(code: str) -> Response:
    if code not in set(ErrorCode):
        raise Failure(ErrorCode.NOT_FOUND, f"there is no problem type {code!r}")
    known = ErrorCode(code)
    text = f"{TITLE[known]}\n\n{ADVICE[known]}\n\n(code {known}, HTTP status {STATUS[known]})\n"
    return Response(text, media_type="text/plain; charset=utf-8")
