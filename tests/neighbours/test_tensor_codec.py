"""Tensors of the Open Inference Protocol: what a client wrote is what is read, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.neighbours.v2_requests import json_length, read_inference
from app.neighbours.v2_tensors import from_bytes, from_list, joined_files
from camserve.errors import CamserveError
from camserve.settings import Settings
from tests.neighbours.calls import DATATYPES, b64, framed, joined, strings, tensor

SETTINGS = Settings(redis_url="redis://unused")
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
ARRAYS = st.one_of(
    *(hnp.arrays(np.dtype(name), SHAPES) for name in DATATYPES if not name.startswith("float")),
    *(
        hnp.arrays(
            np.dtype(name), SHAPES, elements=st.floats(-1e4, 1e4, width=np.dtype(name).itemsize * 8)
        )
        for name in DATATYPES
        if name.startswith("float")
    ),
)
FILES = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5)


@given(ARRAYS)
def test_numbers_come_back_as_they_went(array: np.ndarray) -> None:
    datatype: Any = DATATYPES[str(array.dtype)]
    for found in (
        from_bytes(array.tobytes(), array.shape, datatype, "x"),
        from_list(array.ravel().tolist(), array.shape, datatype, "x"),
        from_list(array.tolist(), array.shape, datatype, "x"),
    ):
        assert isinstance(found, np.ndarray)
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)


@given(FILES)
def test_files_come_back_as_they_went(files: list[bytes]) -> None:
    shape = [len(files)]
    assert from_bytes(joined(files), shape, "BYTES", "x") == files
    assert from_list([b64(one) for one in files], shape, "BYTES", "x") == files


@given(st.lists(st.text(max_size=20), max_size=5))
def test_texts_go_as_clients_read_them(texts: list[str]) -> None:
    assert strings(joined_files([text.encode() for text in texts])) == texts


@given(ARRAYS, st.integers(-9, 9).filter(bool))
def test_bytes_that_are_too_many_or_too_few(array: np.ndarray, difference: int) -> None:
    data = array.tobytes()
    other = data[:difference] if difference < 0 else data + bytes(difference)
    with pytest.raises(CamserveError):
        from_bytes(other, array.shape, DATATYPES[str(array.dtype)], "x")  # type: ignore[arg-type]


@given(FILES, st.binary(max_size=200), st.integers(1, 6))
def test_files_that_do_not_add_up(files: list[bytes], data: bytes, count: int) -> None:
    for broken in (joined(files)[:-1], joined(files) + b"x", data):
        try:
            found = from_bytes(broken, [count], "BYTES", "x")
        except CamserveError:
            continue
        assert isinstance(found, list)
        assert joined(found) == broken
        assert len(found) == count


@settings(max_examples=300)
@given(data=st.data())
def test_a_body_of_any_bytes_is_read_or_refused(data: st.DataObject) -> None:
    """Requests that are nearly right, cut and changed anywhere: never anything but our errors."""
    array = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    heads = [tensor(array, binary=True), {"name": "b", "shape": [2], "datatype": "BYTES"}]
    files = joined([b"one", b"two"])
    heads[1] |= {"parameters": {"binary_data_size": len(files)}}
    value = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.lists(st.integers(-3, 2**40), max_size=4),
        st.dictionaries(st.text(max_size=3), st.integers()),
        st.lists(st.lists(st.integers(), max_size=3), max_size=3),
    )  # fmt: skip
    for _ in range(data.draw(st.integers(0, 3))):
        head = data.draw(st.sampled_from(heads))
        head[data.draw(st.sampled_from([*head, "data", "extra"]))] = data.draw(value)
    document = {
        "inputs": heads,
        "parameters": data.draw(
            st.dictionaries(
                st.sampled_from(["priority", "timeout", "binary_data_output", "format", "x"]),
                value,
                max_size=2,
            )
        ),
    }
    body, headers = framed(json.loads(json.dumps(document, default=str)), array.tobytes(), files)
    at = data.draw(st.integers(0, len(body)))
    body = data.draw(st.sampled_from([body, body[:at], body[:at] + b"\xff" + body[at + 1 :]]))
    (length,) = headers.values()
    length = data.draw(st.sampled_from([length, str(at), str(len(body))]))
    try:
        asked = read_inference("toy", body, json_length([length], body), SETTINGS)
    except CamserveError as error:
        json.dumps(error.extensions)
    else:
        assert asked.uploads
