"""The form body: files in `input`, options as flat fields, anything else as JSON in `request`."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.documents import Upload, file_name, parse_document
from app.flat_fields import request_from_fields
from camserve.contracts.requests import InputsRequest
from camserve.errors import EmptyBody, InvalidRequest, MalformedRequest, TooLarge, shortened
from camserve.settings import Settings

__all__ = ["Form", "read_form"]

DOCUMENT = "request"
MASK = "mask"
MAX_FIELDS = 100


class _InMemoryParser(MultiPartParser):
    # the body is bounded already, and a temporary file could meet a full disk
    spool_max_size = 1 << 40
    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True

    def close(self) -> None:
        """Also the file that the body ended in."""
        for file in self._files_to_close_on_error:
            file.close()


@dataclass(frozen=True)
class Form:
    """A parsed form: its files, its flat fields, the text of its field `request`, and its mask."""

    uploads: list[Upload]
    fields: list[tuple[str, str]]
    document: bytes | None
    mask: bytes | None = None

    @property
    def text_bytes(self) -> int:
        """Of all that becomes the JSON request."""
        texts = (self.document or b"", self.mask or b"", *(value for _, value in self.fields))
        return sum(map(len, texts))

    def to_document(self, contract: type[InputsRequest]) -> dict[str, Any]:
        """The JSON request that the fields stand for. Raises MalformedRequest, InvalidRequest."""
        if self.mask is not None and "targets" not in contract.model_fields:
            raise _unknown_file(MASK)
        document = parse_document(self.document) if self.document is not None else {}
        flat = request_from_fields(self.fields, contract)
        output, flat_output = document.get("output"), flat.get("output")
        if isinstance(output, dict) and flat_output:
            _refuse_both(output.keys() & flat_output.keys())
            flat["output"] = output | flat_output
            document = {name: value for name, value in document.items() if name != "output"}
        _refuse_both(document.keys() & flat.keys())
        document |= flat
        return document if self.mask is None else with_mask(document, self.mask)


def _refuse_both(names: set[str]) -> None:
    for name in sorted(names):
        raise InvalidRequest(
            f"{name} is given twice, in `{DOCUMENT}` and as a field of the form: leave one out",
            field=name,
        )


def with_mask(document: dict[str, Any], mask: bytes) -> dict[str, Any]:
    """The mask as the region of the one reduction that is asked for. Raises InvalidRequest."""
    targets = document.get("targets")
    one = targets[0] if isinstance(targets, list) and len(targets) == 1 else None
    if not isinstance(one, dict) or "reduction" not in one:
        raise InvalidRequest(
            f"the file {MASK} is the region of one reduction: give reduction=segmentation with "
            'params={"class_index": ...}',
            field=MASK,
        )
    params = one.get("params", {})
    if not isinstance(params, dict):
        return document  # which is refused for that
    if "region" in params:
        raise InvalidRequest(f"{MASK} and params.region are both given", field=MASK)
    region = {"mask": {"base64": base64.b64encode(mask).decode()}}
    return document | {"targets": [one | {"params": params | {"region": region}}]}


async def read_form(
    headers: Headers, stream: AsyncGenerator[bytes, None], settings: Settings
) -> Form:
    """Parse a multipart body. Raises MalformedRequest, InvalidRequest, EmptyBody or TooLarge."""
    form = await _parsed(headers, stream, settings)
    try:
        return await _read(form)
    finally:
        await form.close()


async def _read(form: FormData) -> Form:
    uploads: list[Upload] = []
    fields: list[tuple[str, str]] = []
    documents: list[bytes] = []
    masks: list[bytes] = []
    for name, value in form.multi_items():
        data = await value.read() if isinstance(value, UploadFile) else value.encode()
        if name == DOCUMENT:
            documents.append(data)
        elif name == MASK and isinstance(value, UploadFile):
            masks.append(data)
        elif isinstance(value, UploadFile):
            uploads.append(_upload(name, value, data))
        elif name in ("input", MASK):
            raise InvalidRequest(
                f"{name} holds text, not a file: with curl, put an @ before the path, as in "
                f"-F {name}=@{'cat.jpg' if name == 'input' else 'mask.png'}",
                field=name,
            )
        else:
            fields.append((name, data.decode()))
    if len(documents) > 1:
        raise InvalidRequest(f"{DOCUMENT} is given {len(documents)} times", field=DOCUMENT)
    if len(masks) > 1:
        raise InvalidRequest(f"{MASK} is given {len(masks)} times", field=MASK)
    if not (uploads or fields or documents):
        raise EmptyBody
    first = documents[0] if documents else None
    return Form(uploads, fields, first, masks[0] if masks else None)


async def _parsed(
    headers: Headers, stream: AsyncGenerator[bytes, None], settings: Settings
) -> FormData:
    parser = _InMemoryParser(
        # without its charset: a codec of the client's choice could produce any text, or none
        Headers({"content-type": _without_charset(headers["content-type"])}),
        stream,
        max_files=settings.max_inputs + 2,  # and a mask, and the document, which may be a file
        max_fields=MAX_FIELDS,
        max_part_size=settings.max_body_bytes,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise TooLarge(
                f"more than {settings.max_inputs} inputs: send several requests",
                limit=settings.max_inputs,
            ) from error
        raise MalformedRequest(f"the form cannot be parsed: {error.message}") from error
    if not parser.is_complete:
        parser.close()
        raise MalformedRequest(
            "the form is cut off: its last boundary is missing. Send the whole body"
        )
    return form


def _without_charset(content_type: str) -> str:
    return ";".join(
        part for part in content_type.split(";") if not part.strip().lower().startswith("charset")
    )


def _upload(field: str, file: UploadFile, data: bytes) -> Upload:
    if field != "input":
        raise _unknown_file(field)
    if not data:
        raise EmptyBody(f"the file {file.filename or ''!r} is empty: send its contents")
    return Upload(data, file_name(file.filename))


def _unknown_file(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"unknown file field {shortened(field)!r}: files go into the field 'input'",
        field=shortened(field),
    )
