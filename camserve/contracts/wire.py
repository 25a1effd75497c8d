"""The JSON metadata in a safetensors buffer, read without touching the tensors."""

from __future__ import annotations

import json
import struct

__all__ = ["METADATA_KEY", "metadata_of"]

METADATA_KEY = "camserve"


def metadata_of(buffer: bytes) -> str:
    """The JSON text under `METADATA_KEY` in a safetensors buffer.

    Format: a little-endian uint64 with the header's length, then the header as JSON
    (https://huggingface.co/docs/safetensors). Raises ValueError if there is none.
    """
    if len(buffer) < 8:
        raise ValueError("not a safetensors buffer: shorter than its own header")
    (length,) = struct.unpack_from("<Q", buffer)
    if length > len(buffer) - 8:
        raise ValueError("not a safetensors buffer: the header is cut off")
    metadata = json.loads(buffer[8 : 8 + length]).get("__metadata__", {})
    if METADATA_KEY not in metadata:
        raise ValueError(f"the safetensors metadata has no {METADATA_KEY!r}")
    return str(metadata[METADATA_KEY])
