"""Inputs that a URL names: allowed, fetched, and then uploads like any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.documents import RemoteUpload, Upload, file_name
from app.outbound.fetching import Fetcher, Room
from app.uploads import refuse_archive
from camserve.errors import CamserveError

__all__ = ["check_urls", "fetched", "placed"]


def check_urls(fetcher: Fetcher, uploads: Sequence[Upload | RemoteUpload]) -> None:
    """Raises UrlNotAllowed, so that nothing of a request is fetched unless all of it may be."""
    for index, upload in enumerate(uploads):
        if isinstance(upload, RemoteUpload):
            with placed(index, upload):
                fetcher.check(upload.url)


async def fetched(fetcher: Fetcher, upload: Upload | RemoteUpload, room: Room) -> Upload:
    """The upload itself; of a URL, what is there. Raises UrlNotAllowed, UrlUnreachable,
    UnreadableImage (an archive)."""
    if isinstance(upload, Upload):
        return upload
    here = Upload(await fetcher.fetch(upload.url, room), file_name(upload.url.file_name))
    refuse_archive(here)
    return here


@contextmanager
def placed(index: int, upload: Upload | RemoteUpload) -> Iterator[None]:
    """Adds to an error which input it is about."""
    try:
        yield
    except CamserveError as error:
        error.extensions["input"] = index
        if isinstance(upload, RemoteUpload):
            error.extensions.setdefault("field", upload.field)
        raise
