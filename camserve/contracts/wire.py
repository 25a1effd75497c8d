"""A safetensors buffer, of which no number is read or copied.

Format: a little-endian uint64 with the header's length, the header as JSON, and behind it the bytes
of the tensors, where the header says (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

__all__ = ["METADATA_KEY", "TensorBytes", "metadata_of", "tensors_of"]

METADATA_KEY = "camserve"


class TensorBytes(NamedTuple):
    """A tensor as it lies in the buffer. dtype: in safetensors' words, such as `F32`."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def metadata_of(buffer: bytes) -> str:
    """The JSON text under `METADATA_KEY` in a safetensors buffer. Raises ValueError if none."""
    metadata = _header(buffer)[0].get("__metadata__", {})
    if METADATA_KEY not in metadata:
        raise ValueError(f"the safetensors metadata has no {METADATA_KEY!r}")
    return str(metadata[METADATA_KEY])


def tensors_of(buffer: bytes) -> dict[str, TensorBytes]:
    """The tensors of a safetensors buffer, as views of it. Raises ValueError if it is none."""
    header, end = _header(buffer)
    behind = memoryview(buffer)[end:]
    return {
        name: TensorBytes(
            entry["dtype"], tuple(entry["shape"]), behind[slice(*entry["data_offsets"])]
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _header(buffer: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where it ends."""
    if len(buffer) < 8:
        raise ValueError("not a safetensors buffer: shorter than its own header")
    (length,) = struct.unpack_from("<Q", buffer)
    if length > len(buffer) - 8:
        raise ValueError("not a safetensors buffer: the header is cut off")
    return json.loads(buffer[8 : 8 + length]), 8 + length
