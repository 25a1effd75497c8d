"""`/docs`: try the API in a browser. Nothing of it comes from, or goes to, another host.
`/openapi.json` is what it shows."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from app.answers import VARY
from app.conditional import is_current, not_modified
from app.docs_files import DocsFile, docs_file, docs_page, openapi_file
from app.negotiation import accepts_coding
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


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    app, root_path = request.app, request.scope.get("root_path", "").rstrip("/")
    made: dict[str, DocsFile] = app.state.openapi_files
    if root_path not in made:
        made[root_path] = await asyncio.to_thread(lambda: openapi_file(app.openapi(), root_path))
    return _response(request, made[root_path], {"Cache-Control": "no-cache"})


def _response(request: Request, file: DocsFile, headers: dict[str, str]) -> Response:
    headers = {**_HEADERS, **headers, "ETag": file.etag}
    content = file.content
    if file.compressed is not None:
        headers["Vary"] = "Accept-Encoding"
        if accepts_coding(request.headers.getlist("accept-encoding"), "gzip"):
            content = file.compressed
            # other bytes, so another strong tag (RFC 9110, 8.8.3.3)
            headers |= {"Content-Encoding": "gzip", "ETag": f'{file.etag[:-1]}-gzip"'}
    if is_current(request, headers["ETag"]):
        return not_modified(headers)
    return Response(content, 200, headers, file.media_type)
