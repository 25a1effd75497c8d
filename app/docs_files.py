"""The interactive documentation, all of it from this machine: Swagger UI and the page it is in.

Swagger UI's files are those of the package fastapi-swagger, which are those of swagger-ui-dist.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import orjson

from app.conditional import etag_of
from app.negotiation import JSON

__all__ = ["DocsFile", "docs_file", "docs_page", "openapi_file"]

_TYPES = {"js": "text/javascript", "css": "text/css", "png": "image/png"}
_COMPRESSED = ("js", "css")


class DocsFile(NamedTuple):
    """compressed: the same by gzip, if that is worth while. etag: of the bytes, with its quotes."""

    content: bytes
    compressed: bytes | None
    media_type: str
    etag: str


def _sources() -> dict[str, Traversable]:
    swagger = resources.files("fastapi_swagger.resources")
    ours = resources.files("app") / "pages"
    return {
        "swagger-ui-bundle.js": swagger / "swagger-ui-bundle.js",
        "swagger-ui.css": swagger / "swagger-ui.css",
        "favicon-32x32.png": swagger / "favicon-32x32.png",
        "docs.js": ours / "docs.js",
        "docs.css": ours / "docs.css",
    }


@cache
def _contents() -> dict[str, bytes]:
    return {name: source.read_bytes() for name, source in _sources().items()}


@cache
def _version() -> str:
    """One for all files: an address with it never shows anything else."""
    digest = hashlib.sha256()
    for content in _contents().values():
        digest.update(content)
    return digest.hexdigest()[:16]


def docs_file(version: str, name: str) -> DocsFile | None:
    """A file of the page by its address; None if there is none. Compresses 2 MB at first."""
    if name not in _contents() or version != _version():
        return None
    return _file(name)


@cache  # by the names that there are: whatever else is asked for must not be remembered
def _file(name: str) -> DocsFile:
    content, kind = _contents()[name], name.rpartition(".")[2]
    compressed = gzip.compress(content, mtime=0) if kind in _COMPRESSED else None
    return DocsFile(content, compressed, _TYPES[kind], f'"{_version()}"')


@cache
def docs_page() -> DocsFile:
    """The page itself, whose links are relative: it may lie behind a proxy's prefix."""
    text = (resources.files("app") / "pages" / "docs.html").read_text("utf-8")
    content = text.replace("{version}", _version()).encode()
    return DocsFile(content, None, "text/html; charset=utf-8", etag_of(content))


def openapi_file(document: Mapping[str, Any], root_path: str) -> DocsFile:
    """The OpenAPI document of a service whose addresses begin with `root_path`, as a proxy sees
    them."""
    placed = {**document, "servers": [{"url": root_path}]} if root_path else document
    content = orjson.dumps(placed)
    return DocsFile(content, gzip.compress(content, mtime=0), JSON, etag_of(content))
