"""`/docs`: try the API in a browser. Nothing of it comes from, or goes to, another host."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from app.answers import VARY
from app.conditional import is_current, not_modified
from app.docs_files import DocsFile, docs_file, docs_page
from camserve.errors import ErrorCode, Failure

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

# scripts only from files of ours; Swagger UI styles its elements inline, and shows pictures that
# are answered from memory (blob:)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@router.get("/")
async def home(request: Request) -> Response:
    """People come to read. KServe's V1 client asks here whether the server is alive."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("docs", headers=VARY)
    return JSONResponse({"status": "alive", "docs": "/docs"}, headers=VARY)


@router.get("/docs")
async def docs(request: Request) -> Response:
    page = await asyncio.to_thread(docs_page)
    return _response(
        request, page, {"Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}
    )


@router.get("/docs/{version}/{name}")
async def docs_part(request: Request, version: str, name: str) -> Response:
    part = await asyncio.to_thread(docs_file, version, name)
    if part is None:
        raise Failure(ErrorCode.NOT_FOUND, "no file of the documentation is here; see /docs")
    return _response(request, part, {"Cache-Control": "public, max-age=31536000, immutable"})


def _response(request: Request, file: DocsFile, headers: dict[str, str]) -> Response:
    headers = {**_HEADERS, **headers, "ETag": file.etag}
    if file.compressed is not None:
        headers["Vary"] = "Accept-Encoding"
    if is_current(request, file.etag):
        return not_modified(headers)
    if file.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, 200, headers, file.media_type)
    return Response(file.content, 200, headers, file.media_type)
