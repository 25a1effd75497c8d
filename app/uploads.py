"""The three body forms of one request: JSON, a form, or the raw file. All become the same thing."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.flat_fields import request_from_fields
from app.problems import invalid_request
from camserve.contracts.requests import ExplanationRequest, ImageInput, Input
from camserve.errors import (
    EmptyBody,
    InvalidRequest,
    MalformedRequest,
    TooLarge,
    UnsupportedMediaType,
)
from camserve.settings import Settings

__all__ = ["RAW_TYPES", "Upload", "read_request"]

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
RAW_TYPES = (*IMAGE_TYPES, "application/x-npy", "application/octet-stream")
NPY_MAGIC = b"\x93NUMPY"
ANSWER_FORM = "as"  # the one query parameter that goes with every body


@dataclass(frozen=True)
class Upload:
    """One input as it came: a picture file, a .npy file, or nested lists."""

    data: bytes | list[Any]
    name: str | None = None

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.data, list) or self.data.startswith(NPY_MAGIC)


async def read_request(
    request: Request, settings: Settings
) -> tuple[ExplanationRequest, list[Upload]]:
    """Read and check the body, whatever its form.

    Raises EmptyBody, MalformedRequest, InvalidRequest, UnsupportedMediaType or TooLarge.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        asked, uploads = await _read_form(request, settings)
    else:
        body = b"".join([chunk async for chunk in _limited(request, settings.max_body_bytes)])
        if not body:
            raise EmptyBody
        if media_type == "application/json":
            _refuse_query(request)
            asked = _validated(_parsed(body))
            uploads = [_upload(value, index) for index, value in enumerate(asked.inputs)]
        elif media_type in RAW_TYPES or not media_type:
            asked = _validated(request_from_fields(_query(request)))
            uploads = [Upload(body)]
        else:
            raise UnsupportedMediaType(
                f"content type {media_type!r} is not read here: send application/json, "
                f"multipart/form-data or a raw file with one of {', '.join(RAW_TYPES)}",
                supported=["application/json", "multipart/form-data", *RAW_TYPES],
            )
    _check_counts(asked, uploads, settings)
    return asked, uploads


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body in chunks; TooLarge as soon as it is known to be, so that nothing is buffered."""
    announced = request.headers.get("content-length", "")
    received = int(announced) if announced.isdigit() else 0
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


class _InMemoryParser(MultiPartParser):
    # the body is bounded already, and a temporary file could meet a full disk
    spool_max_size = 1 << 40


async def _read_form(
    request: Request, settings: Settings
) -> tuple[ExplanationRequest, list[Upload]]:
    _refuse_query(request)
    parser = _InMemoryParser(
        request.headers,
        _limited(request, settings.max_body_bytes),
        max_files=settings.max_inputs + 1,
        max_fields=100,
        max_part_size=settings.max_body_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "it has no boundary"
        raise MalformedRequest(f"the form cannot be parsed: {reason}") from error
    uploads: list[Upload] = []
    fields: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "input":
                raise InvalidRequest(
                    f"unknown file field {name!r}: files go into the field 'input'", field=name
                )
            data = await value.read()
            if not data:
                raise EmptyBody
            uploads.append(Upload(data, value.filename or None))
        else:
            fields.append((name, value))
    if not uploads and not fields:
        raise EmptyBody
    document = next((value for name, value in fields if name == "request"), None)
    flat = request_from_fields((name, value) for name, value in fields if name != "request")
    asked = _validated((_parsed(document.encode()) if document else {}) | flat)
    inline = [_upload(value, index) for index, value in enumerate(asked.inputs)]
    return asked, uploads + inline


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f"not JSON: {error}", line=error.lineno, column=error.colno
        ) from error
    if not isinstance(document, dict):
        raise MalformedRequest("the JSON document must be an object")
    return document


def _validated(document: dict[str, Any]) -> ExplanationRequest:
    try:
        return ExplanationRequest.model_validate(document)
    except ValidationError as error:
        raise invalid_request(error) from error


def _query(request: Request) -> Iterable[tuple[str, str]]:
    return [(k, v) for k, v in request.query_params.multi_items() if k != ANSWER_FORM]


def _refuse_query(request: Request) -> None:
    for name, _ in _query(request):
        raise InvalidRequest(
            f"unknown query parameter {name!r}: with this content type, options go into the body",
            field=name,
        )


def _upload(value: Input, index: int) -> Upload:
    """An inline input of the JSON document."""
    field = f"inputs.{index}"
    if isinstance(value, ImageInput):
        text = value.image.base64
        if text.startswith("data:"):
            text = text.partition(",")[2]
        return Upload(_decoded(text, f"{field}.image.base64"))
    tensor = value.tensor
    if (tensor.data is None) == (tensor.npy_base64 is None):
        raise InvalidRequest(
            f"{field}.tensor: exactly one of data, npy_base64 is needed", field=f"{field}.tensor"
        )
    if tensor.data is not None:
        return Upload(tensor.data)
    data = _decoded(tensor.npy_base64 or "", f"{field}.tensor.npy_base64")
    if not data.startswith(NPY_MAGIC):
        raise InvalidRequest(f"{field}.tensor.npy_base64 is not a .npy file", field=field)
    return Upload(data)


def _decoded(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field} is not base64: {error}", field=field) from error


def _check_counts(asked: ExplanationRequest, uploads: list[Upload], settings: Settings) -> None:
    if not uploads:
        raise InvalidRequest(
            "there is no input: give at least one picture or tensor", field="inputs"
        )
    if len(uploads) > settings.max_inputs:
        raise TooLarge(
            f"{len(uploads)} inputs are more than {settings.max_inputs}", limit=settings.max_inputs
        )
    targets = sum(
        len(target.indices) if hasattr(target, "indices") else getattr(target, "top", 1)
        for target in asked.targets
    )
    if targets > settings.max_targets:
        raise TooLarge(
            f"{targets} targets are more than {settings.max_targets}", limit=settings.max_targets
        )
