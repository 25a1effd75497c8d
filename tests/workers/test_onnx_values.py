"""`onnx:`: where the cases of the ONNX project are silent, and an error would be a wrong value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional

from camserve.errors import UnsupportedModel
from tests.workers.onnx_files import exported, make, new_entry, node, write
from workers.sources.onnx import load_onnx
from workers.sources.onnx.network import Network


def loaded(folder: Path, model: onnx.ModelProto) -> nn.Module:
    return load_onnx(write(new_entry(folder), model)).module


class Scaled(nn.Module):
    def __init__(self, scale: float, mode: str) -> None:
        super().__init__()
        self.scale, self.mode = scale, mode

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=self.scale, mode=self.mode)


@pytest.mark.parametrize("scale", [0.7, 0.9, 1.4, 2.3, 0.35, 5 / 3])
@pytest.mark.parametrize(("mode", "opset"), [("bilinear", 17), ("bilinear", 20), ("nearest", 17)])
def test_a_resize_by_a_scale_has_the_size_that_torch_gives_it(
    tmp_path: Path, scale: float, mode: str, opset: int
) -> None:
    """A file holds scales in float32, where 0.7 is less than 0.7: 40 of it are 28 all the same."""
    network = Scaled(scale, mode).eval()
    for size in (8, 10, 20, 30, 40, 70, 90) if opset < 18 else (40, 90):
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
        module = load_onnx(exported(new_entry(tmp_path / str(size)), network, x, opset)).module
        if mode == "nearest":  # of two cells that are equally near, torch takes either
            assert module(x).shape == network(x).shape
        else:  # in float64: in float32, torch's own coordinates are off by more
            wide = x.double()
            torch.testing.assert_close(module(wide), network(wide), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("antialias", [0, 1])
@pytest.mark.parametrize("outside", [0, 1])
def test_a_resize_that_torch_does_not_have(
    tmp_path: Path, mode: str, antialias: int, outside: int
) -> None:
    for target in (3, 8, 13):
        model = make(
            [node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode, antialias=antialias,
                  exclude_outside=outside, coordinate_transformation_mode="half_pixel")],
            {"sizes": np.array([1, 3, target, target])}, shape=(1, 3, 8, 8), opset=19,
        )  # fmt: skip
        x = np.random.default_rng(target).normal(size=(1, 3, 8, 8)).astype(np.float32)
        (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
        found = loaded(tmp_path / f"{target}", model)(torch.from_numpy(x))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_large_resize_is_no_loop(tmp_path: Path) -> None:
    """A line of 2^17 items: as quickly computed as asked for, or this file would take minutes."""
    model = make(
        [node("Resize", ["x", "", "scales"], ["y"], mode="cubic")],
        {"scales": np.array([1, 1, 1, 2**15], np.float32)}, shape=(1, 3, 1, 4),
    )  # fmt: skip
    assert loaded(tmp_path, model)(torch.randn(1, 3, 1, 4)).shape == (1, 3, 1, 2**17)


@pytest.mark.parametrize(
    "op", ["ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSum", "ReduceMean"]
)
def test_reductions_of_a_single_number(tmp_path: Path, op: str) -> None:
    nodes = [
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Abs" if op == "ReduceLogSum" else "Neg", ["total"], ["n"]),
        node(op, ["n"], ["y"], keepdims=0),
    ]
    model = make(nodes)
    x = np.random.default_rng(3).normal(size=(1, 3, 8, 8)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    found = loaded(tmp_path, model)(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_the_mean_of_whole_numbers_is_one(tmp_path: Path) -> None:
    """As exporters write it where sizes are computed."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("ReduceMean", ["sizes"], ["mean"], keepdims=0),
        node("Cast", ["mean"], ["y"], to=TensorProto.FLOAT),
    ]
    assert float(loaded(tmp_path, make(nodes))(torch.zeros(2, 3, 8, 8))) == 5  # of 21 / 4


def test_the_instance_norm_of_a_single_position_is_its_bias(tmp_path: Path) -> None:
    bias = np.array([1, -2, 3], np.float32)
    model = make(
        [node("InstanceNormalization", ["x", "s", "b"], ["y"])],
        {"s": np.full(3, 2, np.float32), "b": bias},
    )
    module = loaded(tmp_path, model)
    single = module(torch.randn(2, 3, 1, 1)).flatten(1)
    torch.testing.assert_close(single, torch.tensor(bias).expand(2, 3), rtol=1e-4, atol=0)
    x = torch.randn(2, 3, 8, 8)
    expected = functional.instance_norm(x, weight=torch.full((3,), 2.0), bias=torch.tensor(bias))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("kind", ["UINT16", "UINT32"])
def test_a_negative_number_wraps_in_an_unsigned_type(tmp_path: Path, kind: str) -> None:
    nodes = [
        node("Cast", ["x"], ["whole"], to=getattr(TensorProto, kind)),
        node("Cast", ["whole"], ["y"], to=TensorProto.FLOAT),
    ]
    values = [-1.0, 2.0, -300.0]
    x = torch.tensor(values).reshape(1, 3, 1, 1)
    found = loaded(tmp_path, make(nodes))(x)
    bits = 16 if kind == "UINT16" else 32
    assert found.flatten().tolist() == [float(np.float32(int(v) % 2**bits)) for v in values]


def test_a_padding_is_measured_by_what_it_makes(tmp_path: Path) -> None:
    pads = np.array([0, 0, 32, 32, 0, 0, 32, 32])
    module = loaded(tmp_path, make([node("Pad", ["x", "pads"], ["y"])], {"pads": pads}))
    x = torch.empty(4, 64, 256, 256, device="meta")
    assert module.to("meta")(x).shape == (4, 64, 320, 320)


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
}


@pytest.mark.parametrize("name", HUGE)
def test_what_a_few_bytes_ask_for_is_bounded(tmp_path: Path, name: str) -> None:
    nodes, weights = HUGE[name]
    with pytest.raises((UnsupportedModel, ValueError), match="too large"):
        loaded(tmp_path, make(nodes, weights))(torch.zeros(1, 3, 8, 8))


def test_an_identity_takes_its_own_memory_and_no_square(tmp_path: Path) -> None:
    nodes = [node("EyeLike", ["row"], ["eye"], k=2), node("Add", ["x", "eye"], ["y"])]
    model = make(nodes, {"row": np.zeros((1, 2**17), np.float32)}, shape=("N", 1, 1, 2**17))
    found = loaded(tmp_path, model)(torch.zeros(1, 1, 1, 2**17))
    assert found.nonzero().tolist() == [[0, 0, 0, 2]]


def test_a_weight_of_several_nodes_is_held_once(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], "first"),
        node("Conv", ["a", "w"], ["b"], "second"),
        node("Relu", ["b"], ["y"]),
    ]
    weight = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    module = loaded(tmp_path, make(nodes, {"w": weight}))
    assert sum(one.numel() for one in module.parameters()) == weight.size
    moved = module.double()
    assert len({one.data_ptr() for one in moved.parameters()}) == 1
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    w = torch.from_numpy(weight).double()
    expected = functional.conv2d(functional.conv2d(x, w), w).relu()
    torch.testing.assert_close(moved(x), expected)


def test_nodes_may_have_any_name(tmp_path: Path) -> None:
    """Also those that the module that runs them uses itself; and many may have none."""
    graph = make([node("Relu", ["x"], ["y"])])
    own = [name for name in vars(loaded(tmp_path / "own", graph)) if name.startswith("_")]
    assert "_steps" in own
    nodes, last = [], "x"
    for at, name in enumerate([*own, *vars(Network), *[""] * 5000]):
        nodes.append(node("Relu", [last], [f"v{at}"], name))
        last = f"v{at}"
    nodes.append(node("Identity", [last], ["y"], "end"))
    module = loaded(tmp_path / "all", make(nodes))
    assert torch.equal(module(torch.ones(1, 3, 8, 8)), torch.ones(1, 3, 8, 8))
