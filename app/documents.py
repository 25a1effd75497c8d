"""The JSON document of a request: parsed, checked, and its inline inputs taken out."""

from __future__ import annotations

import base64
import binascii
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson
from numpy.typing import NDArray

from app.arrays import read_array
from app.counts import check_inputs, check_targets
from app.findings import checked
from app.negotiation import refuse_answer_form
from app.outbound.urls import HttpUrl, MalformedUrl, parse_url
from camserve.contracts.requests import Image, ImageInput, Input, InputsRequest
from camserve.errors import InvalidInput, InvalidRequest, MalformedRequest
from camserve.settings import Settings

__all__ = [
    "NPY_MAGIC",
    "Asked",
    "RemoteUpload",
    "Upload",
    "check_breadth",
    "decoded",
    "file_name",
    "inline_uploads",
    "parse_document",
    "validated",
]

NPY_MAGIC: Final = b"\x93NUMPY"
_ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")  # the second of an empty one
# far beyond any object of ours; pydantic would report each unknown member, a kilobyte apiece
_MAX_MEMBERS: Final = 64
_MAX_DEPTH: Final = 8
_MAX_NAME: Final = 255  # of a file; a longer one keeps its end
_BASE64_STEP: Final = 1 << 18  # characters: a multiple of 4, decoded within a millisecond
Asked = TypeVar("Asked", bound=InputsRequest)


@dataclass(frozen=True)
class Upload:
    """One input as it came: a picture file, a .npy file, or the numbers of nested lists.

    format: dimension labels of an array, where they were given for it alone. is_pixels: whether
    an array is of levels 0 to 255 (h, w, c), which a model of pictures takes as a picture.
    """

    data: bytes | NDArray[Any]
    name: str | None = None
    format: str | None = None
    is_pixels: bool = False

    @property
    def is_array(self) -> bool:
        return not isinstance(self.data, bytes) or self.data.startswith(NPY_MAGIC)

    @property
    def is_zip(self) -> bool:
        return isinstance(self.data, bytes) and self.data.startswith(_ZIP_MAGIC)


@dataclass(frozen=True)
class RemoteUpload:
    """One input that is still to be fetched. field: of the request, that names it."""

    url: HttpUrl
    field: str


def file_name(text: str | None) -> str | None:
    """The name of a file as it is kept with its input; None if it has none."""
    return (text or "")[-_MAX_NAME:] or None


def parse_document(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`. Raises MalformedRequest with line and column."""
    try:
        with _no_collection():
            document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f"not JSON: {error}", line=error.lineno, column=error.colno
        ) from error
    if not isinstance(document, dict):
        raise MalformedRequest("the JSON document must be an object")
    return document


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's search for cycles, of which JSON has none: among millions of nested lists it
    takes most of the time, and all of it keeps the event loop from Python's lock."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def validated(document: dict[str, Any], settings: Settings, contract: type[Asked]) -> Asked:
    """The document as such a request. Raises InvalidRequest with the field's path, or TooLarge."""
    refuse_answer_form(document)
    for name, check in (("inputs", check_inputs), ("targets", check_targets)):
        if isinstance(given := document.get(name), list):
            check(len(given), settings)
    check_breadth(document)
    if "model" in document and "model" not in contract.model_fields:
        raise InvalidRequest("model is part of the address here: leave it out", field="model")
    return checked(document, contract)


def check_breadth(value: object, depth: int = 0) -> None:
    """Raises InvalidRequest for an object with more members than any has."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, dict):
        if len(value) > _MAX_MEMBERS:
            raise InvalidRequest(f"an object with {len(value)} members: no field has so many")
        for member in value.values():
            check_breadth(member, depth + 1)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                check_breadth(item, depth + 1)


def inline_uploads(request: InputsRequest) -> list[Upload | RemoteUpload]:
    """The inputs inside the document, decoded, or their URLs. Raises InvalidRequest with the
    field's path, or InvalidInput with the input's number."""
    uploads: list[Upload | RemoteUpload] = []
    for index, value in enumerate(request.inputs):
        try:
            uploads.append(_upload(value, f"inputs.{index}"))
        except InvalidInput as error:
            error.extensions["input"] = index
            raise
    return uploads


def _upload(value: Input, field: str) -> Upload | RemoteUpload:
    if isinstance(value, ImageInput):
        return _image(value.image, f"{field}.image")
    tensor, field = value.tensor, f"{field}.tensor"
    if (tensor.data is None) == (tensor.npy_base64 is None):
        raise InvalidRequest(f"{field}: exactly one of data, npy_base64 is needed", field=field)
    if tensor.data is not None:
        # at once: as Python's lists, the numbers take ten times the room
        return Upload(read_array(tensor.data), format=value.format)
    field = f"{field}.npy_base64"
    data = decoded(tensor.npy_base64 or "", field)
    if not data.startswith(NPY_MAGIC):
        raise InvalidRequest(
            f"{field} is not a .npy file (a .npz is none): write it with numpy.save", field=field
        )
    return Upload(data, format=value.format)


def _image(image: Image, field: str) -> Upload | RemoteUpload:
    if (image.base64 is None) == (image.url is None):
        raise InvalidRequest(f"{field}: exactly one of base64, url is needed", field=field)
    if image.url is not None:
        field = f"{field}.url"
        if image.url.startswith("data:"):
            raise InvalidRequest(
                f"{field} is no address: a data: URL goes into base64", field=field
            )
        try:
            return RemoteUpload(parse_url(image.url), field)
        except MalformedUrl as error:
            raise InvalidRequest(f"{field} {error}", field=field) from error
    text = image.base64 or ""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    return Upload(decoded(text, f"{field}.base64"))


def _in_steps(text: str) -> bytes:
    """Decoded a step at a time: all at once, 20 MB would keep the event loop from Python's lock."""
    if "=" in text[:-2]:
        raise ValueError("padding before its end")
    steps = range(0, len(text), _BASE64_STEP)
    return b"".join(
        base64.b64decode(text[start : start + _BASE64_STEP], validate=True) for start in steps
    )


def decoded(text: str, field: str) -> bytes:
    try:
        # `base64 FILE` breaks its lines
        data = _in_steps("".join(text.split()))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field} is not base64: {error}", field=field) from error
    if not data:
        raise InvalidRequest(f"{field} is empty: put the file there", field=field)
    return data
