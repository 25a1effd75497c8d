"""What a call of the client may raise, in one tree.

    ClientError
    ├── Unreachable         nobody answers at the base URL
    ├── TimedOut            the time that the call was given has passed
    ├── UnexpectedAnswer    something answers, and it is no camserve that this client knows
    └── ProblemError        the service says what is wrong (RFC 9457)
        ├── Refused         the request: mend it
        │   └── InvalidRequest, Unauthorized, NotFound, Conflict, TooLarge
        ├── Unavailable     the service cannot do it now
        │   └── Busy        the queue is full, or the rate limit is reached
        ├── ServiceFault    the service is at fault
        └── ExplanationFailed  the request was accepted, and its explanation has no result

A file that cannot be read is an OSError, and an argument that makes no sense a TypeError or a
ValueError, as everywhere in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = [
    "Busy",
    "ClientError",
    "Conflict",
    "ExplanationFailed",
    "InvalidRequest",
    "NotFound",
    "ProblemError",
    "Refused",
    "ServiceFault",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "error_of",
]

_STANDARD: Final = {"type", "title", "status", "code", "detail", "instance", "request_id"}
_MOST_NAMES: Final = 8


class ClientError(Exception):
    """Base of all errors of the client."""


class Unreachable(ClientError):
    """No connection, or one that broke or stayed silent, as often as it was tried."""


class TimedOut(ClientError, TimeoutError):
    """The call was given so much time and no more.

    explanation_id: of the explanation that was waited for, which goes on, and can still be fetched;
    None if there is none yet.
    """

    def __init__(self, message: str, explanation_id: str | None = None) -> None:
        super().__init__(message)
        self.explanation_id = explanation_id


class UnexpectedAnswer(ClientError):
    """An answer that camserve does not give: of a proxy, of another service, of a newer version."""


class ProblemError(ClientError):
    """The problem that the service answered with.

    problem: the whole document. code: what went wrong, for machines. status: of HTTP; None if the
    explanation failed after it had been accepted. detail: what went wrong, and what to do, for
    people. extensions: members that help to mend it (`candidates`, `limit`, `retry_after_s`).
    request_id: under which the service's log knows the request. href: the page that explains it.
    """

    def __init__(self, problem: Mapping[str, Any], href: str | None = None) -> None:
        self.problem = dict(problem)
        self.code = str(problem.get("code", ""))
        status = problem.get("status")
        self.status: int | None = status if isinstance(status, int) else None
        self.title = str(problem.get("title", ""))
        self.detail = str(problem.get("detail") or self.title or self.code)
        self.request_id: str | None = problem.get("request_id")
        self.extensions = {key: v for key, v in self.problem.items() if key not in _STANDARD}
        self.href = href
        super().__init__(self.detail)

    def __str__(self) -> str:
        """What is wrong and what to do about it, in one sentence."""
        return f"{self.detail}{self._other_findings()}{self._candidates()}"

    def _other_findings(self) -> str:
        """Of a request in which more than one thing is wrong."""
        found = self.extensions.get("errors")
        others = found[1:] if isinstance(found, list) else []
        shown = [f"; {one.get('field')}: {one.get('detail')}" for one in others[:_MOST_NAMES]]
        return "".join(shown) + ("; …" if len(others) > _MOST_NAMES else "")

    def _candidates(self) -> str:
        """The names that could be meant, where the detail does not say them."""
        names = self.extensions.get("candidates")
        if not isinstance(names, list) or not names or "did you mean" in self.detail:
            return ""
        more = ", …" if len(names) > _MOST_NAMES else ""
        return f"; possible are {', '.join(map(str, names[:_MOST_NAMES]))}{more}"


class Refused(ProblemError):
    """The request was refused (4xx): it must be changed."""


class InvalidRequest(Refused):
    """400, 406, 415, 422: the request, or an input of it, has no meaning to the service."""


class Unauthorized(Refused):
    """401, 403: no API key, or not one for this."""


class NotFound(Refused):
    """404: no such model, layer, explanation or dead letter."""


class Conflict(Refused):
    """409: the idempotency key is another request's, there is no result, or no input any more."""


class TooLarge(Refused):
    """413: more bytes, pixels, inputs or targets than the service accepts, or an input that its
    device has no memory for."""


class Unavailable(ProblemError):
    """The service cannot do it now (503), and did not while the client tried again."""


class Busy(Unavailable):
    """429: the queue is full, or the rate limit reached, and stayed so while the client waited."""


class ServiceFault(ProblemError):
    """5xx: look for `request_id` in the service's log."""


class ExplanationFailed(ProblemError):
    """The explanation was accepted, and ended without a result.

    `code` says why: `canceled`, `deadline_exceeded`, `dead_lettered`, `not_explainable`, …
    """

    @property
    def explanation_id(self) -> str | None:
        """Of the explanation, which can still be fetched; None if it was refused before."""
        href = self.extensions.get("explanation")
        return str(href).rpartition("/")[2] if href else None


_BY_STATUS: Final[dict[int, type[ProblemError]]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: Busy,
    503: Unavailable,
    504: ExplanationFailed,
}


def error_of(problem: Mapping[str, Any], status: int, href: str | None) -> ProblemError:
    """The error that a problem document of an answer stands for."""
    kind = _BY_STATUS.get(status, InvalidRequest if status < 500 else ServiceFault)
    if "explanation" in problem and status != 503:
        kind = ExplanationFailed
    return kind({**problem, "status": status}, href)
