"""`Cache-Status` (RFC 9211): whether the result of an earlier request answered this one."""

from __future__ import annotations

from typing import Final

from camserve.broker import JobRecord

__all__ = ["cache_status"]

_FORWARDED: Final = {"miss": "fwd=miss", "bypass": "fwd=request"}


def cache_status(record: JobRecord) -> dict[str, str]:
    """The header of an answer that has the result of a closed job; none where no results are kept.

    `fwd=request`: its `Cache-Control` asked for a computation. `stored`: its result may answer
    others from now on. A repeated request (`Idempotency-Key`) has the header of the first one, and
    its job.
    """
    if record.lookup is None:
        return {}
    if record.lookup == "hit":
        return {"Cache-Status": "camserve; hit"}
    stored = "; stored" if record.is_stored else ""
    return {"Cache-Status": f"camserve; {_FORWARDED[record.lookup]}{stored}"}
