"""`onnx:`: what a small file may ask for: bounded, in memory and in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from camserve.errors import UnsupportedModel
from tests.workers.onnx_files import make, new_entry, node, write
from workers.sources.onnx import load_onnx


def loaded(folder: Path, model: onnx.ModelProto) -> nn.Module:
    return load_onnx(write(new_entry(folder), model)).module


def whole(value: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([value]))


HUGE: dict[str, Any] = {
    "a convolution's padding": (
        [node("Conv", ["x", "w"], ["y"], pads=[30000, 0, 30000, 30001])],
        {"w": np.ones((1, 3, 1, 1), np.float32)},
    ),
    "one of so many": (
        [
            node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            node("OneHot", ["i", "depth", "values"], ["y"]),
        ],
        {"depth": np.array(2**30), "values": np.array([0, 1], np.float32)},
    ),
    "a matrix of weights": (
        [node("Resize", ["x", "", "", "sizes"], ["y"], mode="cubic")],
        {"sizes": np.array([1, 3, 8, 2**28])},
    ),
    "a convolution's padding, the same on both sides": (
        [node("Conv", ["x", "w"], ["y"], pads=[30000] * 4)],
        {"w": np.ones((3, 3, 1, 1), np.float32)},
    ),
    "a transposed convolution's steps": (
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2**14, 2**14])],
        {"w": np.ones((3, 1, 1, 1), np.float32)},
    ),
    "a transposed convolution's shape": (
        [node("ConvTranspose", ["x", "w"], ["y"], output_shape=[2**17, 2**17])],
        {"w": np.ones((3, 1, 1, 1), np.float32)},
    ),
    "a window": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[2**17, 2**17], dilations=[2, 2])],
        {},
    ),
    "whole numbers": (
        [
            node("ConstantOfShape", ["s"], ["o"], value=whole(1)),
            node("Cast", ["o"], ["f"], to=TensorProto.FLOAT),
            node("Add", ["x", "f"], ["y"]),
        ],
        {"s": np.array([2**29 + 1])},
    ),
    "a nearest item for each of so many": (
        [node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest")],
        {"sizes": np.array([1, 3, 8, 2**25])},
    ),
    "a scale that reaches far": (
        [node("Resize", ["x", "", "scales"], ["y"], mode="linear", antialias=1)],
        {"scales": np.array([1, 1, 1, 1e-9], np.float32)},
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_a_few_bytes_ask_for_is_bounded(tmp_path: Path, name: str) -> None:
    nodes, weights = HUGE[name]
    with pytest.raises((UnsupportedModel, ValueError), match="too large"):
        loaded(tmp_path, make(nodes, weights, opset=19))(torch.zeros(1, 3, 8, 8))


def test_constants_that_are_computed_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of branches."""
    monkeypatch.setattr("workers.sources.onnx.network.MOST_COMPUTED_BYTES", 10_000)

    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            node("ConstantOfShape", ["s"], [f"c{name}"]),
            node("Add", ["x", f"c{name}"], [name]),
        ]
        out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        return helper.make_graph(nodes, name, [], out)

    choice = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Cast", ["m"], ["t"], to=TensorProto.BOOL),
        node("If", ["t"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
    ]
    assert loaded(tmp_path / "few", make(choice, {"s": np.array([8, 8])}))
    with pytest.raises(UnsupportedModel, match="constants of more than"):
        loaded(tmp_path / "many", make(choice, {"s": np.array([30, 8, 8])}))


def test_a_padding_is_measured_by_what_it_makes(tmp_path: Path) -> None:
    pads = np.array([0, 0, 32, 32, 0, 0, 32, 32])
    module = loaded(tmp_path, make([node("Pad", ["x", "pads"], ["y"])], {"pads": pads}))
    x = torch.empty(4, 64, 256, 256, device="meta")
    assert module.to("meta")(x).shape == (4, 64, 320, 320)


def test_an_identity_takes_its_own_memory_and_no_square(tmp_path: Path) -> None:
    nodes = [node("EyeLike", ["row"], ["eye"], k=2), node("Add", ["x", "eye"], ["y"])]
    model = make(nodes, {"row": np.zeros((1, 2**17), np.float32)}, shape=("N", 1, 1, 2**17))
    found = loaded(tmp_path, model)(torch.zeros(1, 1, 1, 2**17))
    assert found.nonzero().tolist() == [[0, 0, 0, 2]]


def test_a_large_resize_is_no_loop(tmp_path: Path) -> None:
    """A line of 2^17 items: as quickly computed as asked for, or this file would take minutes."""
    model = make(
        [node("Resize", ["x", "", "scales"], ["y"], mode="cubic")],
        {"scales": np.array([1, 1, 1, 2**15], np.float32)}, shape=(1, 3, 1, 4),
    )  # fmt: skip
    assert loaded(tmp_path, model)(torch.randn(1, 3, 1, 4)).shape == (1, 3, 1, 2**17)
