"""The three body forms of one request: JSON, a form, or the raw file. All become the same thing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias

from fastapi import Request

from app.counts import check_inputs, check_targets
from app.documents import (
    Asked,
    RemoteUpload,
    Upload,
    inline_uploads,
    parse_document,
    validated,
)
from app.flat_fields import URL, request_from_fields
from app.forms import read_form
from app.negotiation import ANSWER_FORM, JSON
from app.query_strings import refuse_repeated
from camserve.contracts.requests import ExplanationRequest, InputsRequest
from camserve.dimensions import check_format
from camserve.errors import (
    EmptyBody,
    InvalidRequest,
    TooLarge,
    UnreadableImage,
    UnsupportedMediaType,
    shortened,
)
from camserve.settings import Settings
from camserve.tracing import staged

__all__ = [
    "RAW_TYPES",
    "Arrival",
    "Read",
    "assembled",
    "check_format_is_used",
    "now_s",
    "read_body",
    "read_request",
    "refuse_archive",
]

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
RAW_TYPES = (*IMAGE_TYPES, "application/x-npy", "application/octet-stream")
FORM = "multipart/form-data"
URL_ENCODED = "application/x-www-form-urlencoded"
SMALL_TEXT: Final = 8192  # bytes: parsed and checked in a tenth of a millisecond
Uploads: TypeAlias = list[Upload | RemoteUpload]
Read: TypeAlias = tuple[Asked, Uploads]
InThread: TypeAlias = Callable[[Callable[[], Read[Asked]]], Awaitable[Read[Asked]]]


@dataclass(frozen=True)
class Arrival(Generic[Asked]):
    """A request whose body is there and checked. arrived_s: when it was, by this process's event
    loop; from then on the client waits for us."""

    asked: Asked
    uploads: Uploads
    arrived_s: float


@staged("read")
async def read_request(
    request: Request,
    settings: Settings,
    contract: type[Asked],
    in_thread: InThread[Asked] = asyncio.to_thread,
) -> Arrival[Asked]:
    """Read and check the body, whatever its form. The request comes without its inputs, which are
    the uploads: as Python's lists, their numbers would take many times the room.

    contract: what the body must be. in_thread: runs what a body of 20 MB of text makes slow and
    large.

    Raises EmptyBody, MalformedRequest, InvalidRequest, UnsupportedMediaType, UnreadableImage (an
    archive) or TooLarge.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    _check_readable(media_type, request.headers.get("content-encoding", "identity"))
    refuse_repeated(request, ANSWER_FORM)
    chunks = _limited(request, settings.max_body_bytes)
    if media_type == FORM:
        _refuse_query(request)
        form = await read_form(request.headers, chunks, settings)
        arrived_s = now_s()

        def of_form() -> Read[Asked]:
            return assembled(form.to_document(contract), form.uploads, settings, contract)

        return Arrival(*await _unless_small(of_form, form.text_bytes, in_thread), arrived_s)
    body = b"".join([chunk async for chunk in chunks])
    if not body and (media_type == JSON or URL not in request.query_params):
        raise EmptyBody
    arrived_s = now_s()
    if media_type == JSON:
        _refuse_query(request)

        def of_document() -> Read[Asked]:
            return assembled(parse_document(body), [], settings, contract)

        return Arrival(*await _unless_small(of_document, len(body), in_thread), arrived_s)
    document = request_from_fields(_query(request), contract)
    read = assembled(document, [Upload(body)] if body else [], settings, contract)
    return Arrival(*read, arrived_s)


async def _unless_small(
    assemble: Callable[[], Read[Asked]], size: int, in_thread: InThread[Asked]
) -> Read[Asked]:
    """In a thread, unless the text is so small that the way there and back takes longer."""
    return assemble() if size <= SMALL_TEXT else await in_thread(assemble)


@staged("read")
async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body, whatever its type. Raises EmptyBody, TooLarge, UnsupportedMediaType (of a
    compressed one)."""
    _check_encoding(request.headers.get("content-encoding", "identity"))
    body = b"".join([chunk async for chunk in _limited(request, settings.max_body_bytes)])
    if not body:
        raise EmptyBody
    return body


def now_s() -> float:
    """By this process's event loop."""
    return asyncio.get_running_loop().time()


def assembled(
    document: dict[str, Any], files: list[Upload], settings: Settings, contract: type[Asked]
) -> Read[Asked]:
    """The JSON request and the files beside it, checked. Raises as `read_request` does."""
    asked = validated(document, settings, contract)
    uploads = [*files, *inline_uploads(asked)]
    _check_counts(asked, uploads, settings)
    here = [(index, one) for index, one in enumerate(uploads) if isinstance(one, Upload)]
    for index, upload in here:
        try:
            refuse_archive(upload)
        except UnreadableImage as error:
            error.extensions["input"] = index
            raise
    if asked.format is not None:
        check_format(asked.format)
    if len(here) == len(uploads):  # else when the others are here, too
        check_format_is_used(asked.format, [upload.is_array for _, upload in here])
    return asked.model_copy(update={"inputs": ()}), uploads


def _check_readable(media_type: str, encoding: str) -> None:
    """Raises UnsupportedMediaType, before the body is read. No type at all is a raw file."""
    _check_encoding(encoding)
    supported = [JSON, FORM, *RAW_TYPES]
    if not media_type or media_type in supported:
        return
    remedy = f"send {JSON}, {FORM} or a raw file with one of {', '.join(RAW_TYPES)}"
    if media_type == URL_ENCODED:  # what curl says unless told otherwise
        remedy = (
            "send the file as a form (curl -F model=shapes -F input=@cat.jpg), or raw under its "
            "own type (curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg')"
        )
    raise UnsupportedMediaType(
        f"content type {media_type!r} is not read here: {remedy}", supported=supported
    )


def _check_encoding(encoding: str) -> None:
    if encoding.strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaType(
            f"a body with content encoding {shortened(encoding)!r} is not read here: send it "
            "uncompressed",
            encodings=["identity"],
        )


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body in chunks; TooLarge as soon as it is known to be, so that nothing is buffered."""
    announced = request.headers.get("content-length", "")
    received = int(announced) if announced.isdecimal() else 0
    if received <= limit:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                break
            yield chunk
    if received > limit:
        raise TooLarge(
            f"the body is larger than {limit / 1_000_000:g} MB: send a smaller picture",
            limit=limit,
        )


def _query(request: Request) -> Iterable[tuple[str, str]]:
    return [(k, v) for k, v in request.query_params.multi_items() if k != ANSWER_FORM]


def _refuse_query(request: Request) -> None:
    for name, _ in _query(request):
        raise InvalidRequest(
            f"unknown query parameter {shortened(name)!r}: with this content type, options go into "
            "the body",
            field=shortened(name),
        )


def refuse_archive(upload: Upload) -> None:
    """Raises UnreadableImage."""
    if upload.is_zip:
        raise UnreadableImage(
            "a zip archive, as .npz files are: send a .npy file, not .npz (numpy.save writes it)"
        )


def check_format_is_used(labels: str | None, arrays: Sequence[bool]) -> None:
    """Raises InvalidRequest for labels of dimensions where none of the inputs is an array."""
    if labels is not None and not any(arrays):
        raise InvalidRequest(
            "format labels the dimensions of arrays, and no input is one (.npy, lists): leave it "
            "out",
            field="format",
        )


def _check_counts(asked: InputsRequest, uploads: Uploads, settings: Settings) -> None:
    if not uploads:
        raise InvalidRequest(
            "there is no input: give at least one picture or tensor", field="inputs"
        )
    check_inputs(len(uploads), settings)
    if isinstance(asked, ExplanationRequest):
        check_targets(sum(target.count for target in asked.targets or ()), settings)
