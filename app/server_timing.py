"""`Server-Timing` (W3C): where the time of an answer went, for the browser's network panel."""

from __future__ import annotations

import time

from app.prediction import Predicted
from app.results import Finished
from camserve.broker import JobRecord

__all__ = ["server_timing"]


def server_timing(
    record: JobRecord,
    done: Finished | Predicted | None,
    *,
    began_s: float,
    prepare_s: float | None = None,
) -> dict[str, str]:
    """The header, in milliseconds: `prepare` (decode and resize, of a request that made the job),
    `queue` (until a worker began), `compute` (on the worker; none of an earlier result), `present`
    (since `began_s`, by `time.perf_counter`: read, resample, draw, encode)."""
    computed = done if record.lookup != "hit" else None
    durations = {
        "prepare": None if prepare_s is None else prepare_s * 1000,
        "queue": record.started_ms - record.created_ms if record.started_ms else None,
        "compute": computed.result.compute_ms if computed else None,
        "present": (time.perf_counter() - began_s) * 1000,
    }
    known = (f"{name};dur={ms:.1f}" for name, ms in durations.items() if ms is not None)
    return {"Server-Timing": ", ".join(known)}
