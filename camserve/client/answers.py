"""Answers, read: the message that was asked for, or the error that came instead of it."""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from camserve.client.calls import Answer
from camserve.client.errors import ClientError, UnexpectedAnswer, error_of
from camserve.errors import ErrorCode

__all__ = ["error_in", "message", "problem_in"]

M = TypeVar("M", bound=BaseModel)

PROBLEM: Final = "application/problem+json"
_CODES: Final = frozenset(ErrorCode)
_MOST_SHOWN: Final = 200  # characters of an answer that is none


def message(kind: type[M], answer: Answer) -> M:
    """The body as `kind`. Members that a newer service added are passed over.

    Raises UnexpectedAnswer.
    """
    try:
        document = json.loads(answer.body)
        return kind.model_validate(_in_known_codes(document), extra="ignore")
    except (ValueError, ValidationError) as error:
        reason = error.errors()[0] if isinstance(error, ValidationError) else None
        where = ".".join(map(str, reason["loc"])) if reason else ""
        what = f"{where}: {reason['msg']}" if reason else f"it is not JSON: {_beginning(answer)}"
        raise UnexpectedAnswer(
            f"{answer.url} answered what this version of the client cannot read ({what})"
        ) from error


def problem_in(answer: Answer) -> dict[str, Any] | None:
    """The problem document of an answer, if it is one."""
    if answer.media_type != PROBLEM:
        return None
    try:
        document = json.loads(answer.body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def error_in(answer: Answer) -> ClientError | None:
    """The error that an answer is; None for one that is none."""
    if answer.status < 300:
        return None
    problem = problem_in(answer)
    if problem is not None:
        href = str(problem.get("type", ""))
        page = str(answer.url.copy_with(raw_path=href.encode())) if href.startswith("/") else None
        return error_of(problem, answer.status, page)
    if answer.status < 400:
        return UnexpectedAnswer(
            f"{answer.url} redirects to {answer.headers.get('location')}: give the base URL behind "
            "it"
        )
    return UnexpectedAnswer(
        f"{answer.url} answered {answer.status} and no problem document, so it is not camserve, or "
        f"something in front of it: {_beginning(answer)}"
    )


def _beginning(answer: Answer) -> str:
    text = " ".join(answer.body[: 4 * _MOST_SHOWN].decode(errors="replace").split())
    return repr(text[:_MOST_SHOWN])


def _in_known_codes(document: Any) -> Any:
    """Failures of kinds that only a newer service knows are `internal` here; their own code is
    kept among the extensions."""
    if isinstance(document, list):
        return [_in_known_codes(one) for one in document]
    if not isinstance(document, dict):
        return document
    document = {
        name: _in_known_codes(value) if name not in ("data", "npy_base64") else value
        for name, value in document.items()
    }
    if {"code", "detail", "extensions"} <= document.keys() and document["code"] not in _CODES:
        extensions = {**document["extensions"], "code": document["code"]}
        return {**document, "code": ErrorCode.INTERNAL, "extensions": extensions}
    return document
