"""The inputs and results of the network of `network.py`, as arrays and files."""

from __future__ import annotations

import io
import json
import struct

import numpy as np

from tests.faults.network import MARK, SIDE, Deed

__all__ = ["input_array", "npy", "payload_file", "result_file"]


def input_array(number: int, deed: Deed = Deed.NOTHING, value: float = 0.0) -> np.ndarray:
    array = np.zeros((1, SIDE, SIDE), np.float32)
    array[0, 0, :4] = number, deed, value, MARK
    array[0, 1, 1:4] = -array[0, 0, 1:4]
    return array


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _safetensors(header: dict[str, object], data: bytes) -> bytes:
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def payload_file(number: int) -> bytes:
    """What a front end puts into the queue, as far as the checker reads it."""
    data = input_array(number).tobytes()
    tensor = {"dtype": "F32", "shape": [1, SIDE, SIDE], "data_offsets": [0, len(data)]}
    return _safetensors({"input.0": tensor}, data)


def result_file(number: int) -> bytes:
    """What a worker commits, as far as the checker reads it."""
    rows = json.dumps({"rows": [{"class_index": 0, "score": number / 64}]})
    return _safetensors({"__metadata__": {"camserve": rows}}, b"")
