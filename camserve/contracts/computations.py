"""Which jobs compute the same thing: what the result of one answers, and what it does not."""

from __future__ import annotations

import hashlib
from typing import Final

from camserve import __version__
from camserve.contracts.jobs import Job

__all__ = ["DECIDING", "PRESENTING", "computation_digest"]

DECIDING: Final = frozenset(
    {
        *("version", "kind", "model", "model_version"),
        "model_interface",  # with what scales and normalises the levels that the payload holds
        *("input_digest", "targets"),
        *("method", "method_options", "feature_layers", "feature_format", "reduction_layer"),
        *("precision", "evaluate"),
    }
)
"""Fields of a job that decide what is computed. The device that it names, if any, does so too, and
is no part of the document."""

PRESENTING: Final = frozenset(
    {
        "inputs",  # how uploads became the tensors, which the payload holds
        *("convention", "upsampling", "fusion", "output"),
        *("request_id", "traceparent", "tracestate", "webhook", "replay_of", "caching"),
    }
)
"""Fields that decide who asks, how, and what is made of the result."""


def computation_digest(job: Job) -> str | None:
    """Equal for jobs that compute the same numbers: SHA-256, in hexadecimal. None of a job without
    a digest of its payload.

    Other versions of camserve may compute otherwise, and share nothing with this one.
    """
    if job.input_digest is None:
        return None
    computed = job.model_dump_json(include=set(DECIDING))
    return hashlib.sha256(f"{__version__}\n{computed}".encode()).hexdigest()
