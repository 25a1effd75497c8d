"""Tensors: taken only when they are exactly what the model takes, and never unpickled."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import arrays
from app.arrangement import arranged
from app.arrays import as_finite_float32, read_array
from app.documents import Upload
from app.inputs import prepare
from app.pictures import open_display_copy
from camserve.contracts.input_specs import PictureSpec, TensorSpec
from camserve.errors import InvalidInput
from camserve.settings import Settings

SHAPE = (3, 4, 5)
ARRAY = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def read_tensor(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """As it reaches a model that takes arrays of that shape."""
    spec = TensorSpec(format="BCSS", shape=shape)
    (one,) = arranged(read_array(data), spec, None, 32)
    return as_finite_float32(one.array)


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def headed(header: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header.encode() + body


@pytest.mark.parametrize(
    "array",
    [
        ARRAY,
        ARRAY[None],
        ARRAY.astype(np.float64),
        ARRAY.astype(">f4"),
        np.asfortranarray(ARRAY),
        ARRAY.astype(np.float16),
        (ARRAY * 50).astype(np.int8),
        (ARRAY * 50).astype(np.int64),
        ARRAY > 0,
    ],
    ids=lambda array: str(array.dtype),
)
def test_numbers_of_any_kind_arrive_as_they_are(array: np.ndarray) -> None:
    expected = array.astype(np.float32).reshape(SHAPE)
    for data in (npy(array), array.tolist()):
        tensor = read_tensor(data, SHAPE)
        assert tensor.dtype == np.float32
        assert tensor.flags.c_contiguous
        np.testing.assert_array_equal(tensor, expected)


def test_a_batch_of_one_channel_is_no_riddle() -> None:
    shape = (1, 4, 5)
    array = ARRAY[:1]
    for data in (array.tolist(), array[None].tolist(), npy(array), npy(array[None])):
        np.testing.assert_array_equal(read_tensor(data, shape), array)


WRONG: dict[str, tuple[Any, str]] = {
    "shape": (npy(ARRAY[:, :3]), r"\[3, 3, 5\]; the model takes \[3, 4, 5\]"),
    "batch": (npy(np.stack([ARRAY, ARRAY])), r"\[2, 3, 4, 5\]"),
    "nan": (npy(np.where(ARRAY > 0, np.nan, ARRAY)), "NaN"),
    "infinite": (npy(np.full(SHAPE, np.inf, np.float32)), "infinite"),
    "beyond float32": (npy(np.full(SHAPE, 1e300)), "infinite"),
    "complex": (npy(ARRAY.astype(complex)), "real numbers, not complex128"),
    "text": (npy(np.full(SHAPE, "1.0")), "real numbers"),
    "record": (npy(np.zeros(SHAPE, [("a", "f4")])), "real numbers"),
    "cut off": (npy(ARRAY)[:-1], "239 bytes .* announces 240"),
    "too long": (npy(ARRAY) + b"\0", "241 bytes .* announces 240"),
    "no header": (b"\x93NUMPY", "header"),
    "version": (b"\x93NUMPY\x09\x00" + npy(ARRAY)[8:], "header"),
    "huge shape": (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}"),
                   "holds 0 bytes of numbers"),
    "absurd shape": (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}"),
                     "header"),
    "negative shape": (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
                       r"shape is \[-1\]"),
    "huge items": (headed("{'descr': '<V999999999', 'fortran_order': False, 'shape': (3, 4, 5)}"),
                   "real numbers"),
    "negative and positive": (
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -4, 5)}"), r"\[-3, -4, 5\]"),
    "more than can be counted": (
        headed(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**40}, {2**40})}}"),
        "holds 0 bytes of numbers"),
    "sizes that are true": (
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 60)}"),
        "bytes of numbers"),
    "sizes of text": (headed("{'descr': '<f4', 'fortran_order': False, 'shape': ('3', 4)}"),
                      "header"),
    "a call": (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (print(1),)}"), "header"),
    "an import": (headed("__import__('os').system('false')"), "header"),
    "further keys": (
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}"), "header"),
    "an order that is none": (headed("{'descr': '<f4', 'fortran_order': 7, 'shape': (3,)}"),
                              "header"),
    "arrays in an array": (
        headed("{'descr': ('<f4', (9999, 9999)), 'fortran_order': False, 'shape': (3,)}"),
        "real numbers"),
    "dates": (npy(np.zeros(SHAPE, "datetime64[s]")), "real numbers"),
    "pointers": (headed("{'descr': '|O', 'fortran_order': False, 'shape': (3, 4, 5)}", bytes(480)),
                 "real numbers, not object"),
    "a length beyond the file": (b"\x93NUMPY\x01\x00\xff\xff{", "header"),
    "not Python": (headed("{'descr': "), "header"),
    "deep": (headed("(" * 9000), "header"),
    "long": (headed("0" * 60_000), "header"),
    "longer": (headed("#" * 10**6, version=(2, 0)), "header"),
    "lists: shape": (ARRAY[:2].tolist(), r"\[2, 4, 5\]"),
    "lists: ragged": ([[[0.0] * 5] * 4] * 2 + [[[0.0] * 5] * 3 + [[0.0] * 4]],
                      r"data\[2\]\[3\] must be a list of 5"),
    "lists: text": ([[["1.0"] * 5] * 4] * 3, "numbers"),
    "lists: null": ([[[None] * 5] * 4] * 3, "numbers"),
    "lists: object": ([[[{}] * 5] * 4] * 3, "numbers"),
    "lists: deeper": ([[[[1.0]] * 5] * 4] * 3, "shape"),
    "lists: deeper later": ([[[1.0] * 4 + [[1.0]]] * 4] * 3, "numbers"),
    "lists: huge": ([[[1e300] * 5] * 4] * 3, "infinite"),
    "lists: empty": ([], "shape"),
    "lists: a number": ([1, 2, 3], "shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_the_model_cannot_take_is_refused(case: str) -> None:
    data, reason = WRONG[case]
    with pytest.raises(InvalidInput, match=reason):
        read_tensor(data, SHAPE)


def test_nothing_is_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("unpickled",))

    objects = np.empty(SHAPE, object)
    objects[...] = Trap()
    trap = npy(objects, allow_pickle=True)
    with pytest.raises(pytest.fail.Exception, match="unpickled"):
        np.load(io.BytesIO(trap), allow_pickle=True)  # it is one
    with pytest.raises(InvalidInput, match="real numbers, not object"):
        read_tensor(trap, SHAPE)


def test_a_header_is_not_believed() -> None:
    """numpy itself makes room for what a header announces, before it reads."""
    data = headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 20000, 30000)}")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="announces"):
            read_tensor(data, (3, 20000, 30000))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_one_header_is_parsed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's parser is not safe in threads, once in some hundred thousand times."""
    inside, others = Barrier(2), []
    read_header = arrays._HEADERS[1, 0]

    def read(file: Any) -> Any:
        try:
            inside.wait(0.2)  # for as long another thread may come in
            others.append(file)
        except BrokenBarrierError:
            inside.reset()
        return read_header(file)

    monkeypatch.setitem(arrays._HEADERS, (1, 0), read)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(read_array, [npy(ARRAY)] * 2))
    assert not others
    np.testing.assert_array_equal(found, [ARRAY] * 2)


def test_one_long_text_among_numbers_takes_no_room() -> None:
    rows: list[Any] = [[[0.0] * 300] * 300] * 3
    rows = [rows[0], rows[1], [*rows[2][:-1], [*rows[2][0][:-1], "x" * 100_000]]]
    with pytest.raises(InvalidInput, match=r"data\[2\]\[299\]\[299\] is not one"):
        read_tensor(rows, (3, 300, 300))


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(npy(ARRAY))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(6, 140))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInput):
        assert read_tensor(bytes(damaged), SHAPE).shape == SHAPE


@pytest.mark.parametrize("colors", ["RGB", "BGR", "L"])
def test_a_tensor_is_shown_as_the_picture_it_was(colors: Any) -> None:
    """A picture, normalised by hand, sent as a tensor: its overlay has the picture's colours."""
    spec = PictureSpec(height=6, width=8, colors=colors, mean=(0.4,), std=(0.25,))
    levels = np.random.default_rng(1).integers(0, 256, (spec.channels, 6, 8)).astype(np.float32)
    (prepared,) = prepare(Upload(npy((levels / 255 - 0.4) / 0.25)), spec, Settings())
    shown = np.asarray(open_display_copy(prepared.picture)).transpose(2, 0, 1)
    expected = levels[::-1] if colors == "BGR" else np.broadcast_to(levels, (3, 6, 8))
    np.testing.assert_array_equal(shown, expected)
    assert prepared.tensor.shape == spec.shape


def test_extreme_tensors_can_be_shown() -> None:
    spec = PictureSpec(height=4, width=5, std=(4.0,))
    for value in (3e38, -3e38):
        (prepared,) = prepare(Upload(npy(np.full(SHAPE, value))), spec, Settings())
        assert open_display_copy(prepared.picture).size == (5, 4)
