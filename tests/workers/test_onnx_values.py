"""`onnx:`: where the cases of the ONNX project are silent, and an error would be a wrong value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional

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


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("ReduceMean", 5),  # of 21 / 4
        ("ReduceL2", 11),  # the root of 141
        ("ReduceLogSum", 3),
        ("ReduceLogSumExp", 8),
    ],
)
def test_a_reduction_of_whole_numbers_is_one(tmp_path: Path, op: str, expected: int) -> None:
    """As exporters write it where sizes are computed."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node(op, ["sizes"], ["one"], keepdims=0),
        node("Cast", ["one"], ["y"], to=TensorProto.FLOAT),
    ]
    assert float(loaded(tmp_path, make(nodes))(torch.zeros(2, 3, 8, 8))) == expected


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


def test_a_negative_number_is_refused_in_the_widest_unsigned_type(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["whole"], to=TensorProto.UINT64),
        node("Cast", ["whole"], ["y"], to=TensorProto.FLOAT),
    ]
    module = loaded(tmp_path, make(nodes))
    x = torch.arange(192.0).reshape(1, 3, 8, 8)
    assert torch.equal(module(x), x)
    with pytest.raises(ValueError, match="a negative number to uint64"):
        module(-x)


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


def test_branches_may_have_weights_of_one_name(tmp_path: Path) -> None:
    """Each means its own: a name counts inside of its branch."""

    def branch(name: str, factor: float) -> onnx.GraphProto:
        value = numpy_helper.from_array(np.array(factor, np.float32))
        nodes = [node("Constant", [], ["k"], value=value), node("Mul", ["x", "k"], [name])]
        out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        return helper.make_graph(nodes, name, [], out)

    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Equal", ["n", "one"], ["is_one"]),
        node("If", ["is_one"], ["y"], then_branch=branch("a", 2), else_branch=branch("b", 3)),
    ]
    module = loaded(tmp_path, make(nodes, {"zero": np.array(0), "one": np.array(1)}))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(module(x[:1]), 2 * x[:1])
    torch.testing.assert_close(module(x), 3 * x)


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
