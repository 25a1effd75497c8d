"""What a result is a result of: so that it answers the same computation, and no other."""

from __future__ import annotations

import json

from camserve.contracts.computations import computation_digest
from camserve.contracts.jobs import Job
from camserve.contracts.wire import metadata_of

__all__ = ["computed_digest"]


def computed_digest(job: Job, result: bytes) -> str:
    """Digest of what was computed, by the version of the model that the result names: it may be a
    newer one than the job was accepted for. Empty for what may not be kept."""
    if not job.may_fill_caches or job.input_digest is None:
        return ""
    version = json.loads(metadata_of(result))["model_version"]
    return computation_digest(job.model_copy(update={"model_version": version})) or ""
