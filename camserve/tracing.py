"""Spans of a request's stages, and how they find each other across processes (W3C Trace Context).

Without an SDK, which `camserve.telemetry` starts, no span is recorded and a stage costs about a
microsecond; the caller's ids are passed on all the same, and logs have them.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from camserve import __version__
from camserve.errors import CamserveError

__all__ = ["carried", "context_of", "fail", "stage", "staged", "tracer"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_PROPAGATOR: Final = TraceContextTextMapPropagator()
tracer: Final[Tracer] = trace.get_tracer("camserve", __version__)
"""All of camserve's spans are of it. Records from when an SDK is set up, whenever that is."""


def context_of(carrier: Mapping[str, str | None]) -> Context:
    """What `traceparent` and `tracestate` say; of none, or nonsense, a context without a span."""
    given = {name: value for name, value in carrier.items() if value is not None}
    return _PROPAGATOR.extract(given, Context())


def carried() -> dict[str, str]:
    """`traceparent`, and `tracestate` if there is one, of the current span; empty if none is."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


@contextmanager
def stage(
    name: str,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """A part of what the current span is of. Of one that is not recorded, no part is."""
    if not trace.get_current_span().is_recording():
        yield INVALID_SPAN
        return
    with tracer.start_as_current_span(
        name,
        kind=kind,
        attributes=attributes,
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            fail(span, error)
            raise


def staged(
    name: str,
) -> Callable[[Callable[Arguments, Awaitable[Result]]], Callable[Arguments, Awaitable[Result]]]:
    """The whole of a coroutine function as a stage."""

    def decorate(
        function: Callable[Arguments, Awaitable[Result]],
    ) -> Callable[Arguments, Awaitable[Result]]:
        @functools.wraps(function)
        async def traced(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
            with stage(name):
                return await function(*args, **options)

        return traced

    return decorate


def fail(span: Span, error: BaseException) -> None:
    """Says that it failed, and with which kind of error: its words may be somebody's data."""
    code = error.code.value if isinstance(error, CamserveError) else type(error).__qualname__
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR))
