"""Job ids: a ULID, then the model, so that an id alone leads to its keys."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time

from camserve.broker.keys import MODEL_NAME

__all__ = ["model_of", "new_job_id"]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
_JOB_ID = re.compile(rf"[0-7][{_ALPHABET}]{{25}}-({MODEL_NAME.pattern})")
_RANDOM_BITS = 80

_lock = threading.Lock()
_last = 0


def new_job_id(model: str) -> str:
    """A new id such as `01JD8Q4V1N0Z7M3K5T9W2XACBE-resnet50`.

    Ids sort by their time; those of one process strictly by the order of the calls.
    Raises ValueError for a name that is no model name.
    """
    if not MODEL_NAME.fullmatch(model):
        raise ValueError(f"not a model name: {model!r}")
    global _last  # noqa: PLW0603 - the last id of the process is what makes ids monotonic
    with _lock:
        fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        _last = max(fresh, _last + 1)
        number = _last
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)) + f"-{model}"


def model_of(job_id: str) -> str:
    """The model that a job id names. Raises ValueError if it is no job id."""
    match = _JOB_ID.fullmatch(job_id)
    if match is None:
        raise ValueError(f"not a job id: {job_id!r}")
    return match[1]


def _forget() -> None:
    global _last  # noqa: PLW0603
    _last = 0


# A forked child that counted on from its parent's last id would make its siblings' ids.
os.register_at_fork(after_in_child=_forget)
