"""Calls of the neighbours' protocols, as their clients write them, by hand."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np

__all__ = [
    "EXPLAIN_V1",
    "EXPLAIN_V2",
    "HEADER",
    "b64",
    "error",
    "framed",
    "joined",
    "tensor",
    "tensors",
]

HEADER = "Inference-Header-Content-Length"
EXPLAIN_V1 = "/v1/models/toy:explain"
EXPLAIN_V2 = "/v2/models/toy/explain"
DATATYPES = {
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bool": "BOOL",
    **{
        f"{kind}int{bits}": f"{kind.upper()}INT{bits}"
        for kind in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def tensor(array: np.ndarray, *, binary: bool = False) -> dict[str, Any]:
    """An array as an input tensor."""
    head = {"name": "input", "shape": list(array.shape), "datatype": DATATYPES[str(array.dtype)]}
    if binary:
        return head | {"parameters": {"binary_data_size": array.nbytes}}
    return head | {"data": array.ravel().tolist()}


def framed(document: dict[str, Any], *parts: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with binary tensors."""
    text = json.dumps(document).encode()
    return b"".join([text, *parts]), {HEADER: str(len(text))}


def tensors(response: httpx.Response) -> dict[str, Any]:
    """The outputs of an answer by name: arrays, or lists of strings."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(HEADER, len(response.content)))
    document, rest = json.loads(response.content[:length]), response.content[length:]
    found: dict[str, Any] = {}
    names = {datatype: name for name, datatype in DATATYPES.items()}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        assert (size is None) == ("data" in output)
        if output["datatype"] == "BYTES":
            found[output["name"]] = output["data"] if size is None else strings(rest[:size])
        else:
            dtype = np.dtype(names[output["datatype"]])
            flat = (
                np.array(output["data"], dtype)
                if size is None
                else np.frombuffer(rest[:size], dtype)
            )
            found[output["name"]] = flat.reshape(output["shape"])
        rest = rest[size or 0 :]
    assert not rest
    return found


def strings(data: bytes) -> list[str]:
    found = []
    while data:
        length = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return found


def error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The document of an error in the neighbours' form."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert isinstance(document["error"], str)
    assert (document["code"], document["status"]) == (code, status)
    assert "detail" not in document
    return dict(document)


def joined(files: list[bytes]) -> bytes:
    """BYTES as they lie behind the JSON."""
    return b"".join(len(one).to_bytes(4, "little") + one for one in files)
