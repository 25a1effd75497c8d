"""`onnx:`: files as several tools write them, and what becomes of their nodes."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional

from tests.workers.onnx_files import CARD, IMAGE, make, new_entry, node, write
from workers.sources.onnx import load_onnx

GENERATOR = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


MATLAB_NODES = [
    node("Conv", ["x", "W", "B"], ["c"], "conv 1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], "batchnorm_1", spatial=1),
    node("Relu", ["n"], ["r"], "relu_1"),
    node(
        "MaxPool", ["r"], ["p"], "maxpool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]
    ),
    node("Flatten", ["p"], ["f"], "Flatten_fc"),
    node("Gemm", ["f", "FW", "FB"], ["g"], "fc", transB=1),
    node("Softmax", ["g"], ["y"], "softmax"),
]
MATLAB_WEIGHTS = {
    "W": numbers(4, 3, 3, 3), "B": numbers(4), "s": numbers(4), "b": numbers(4), "m": numbers(4),
    "v": np.abs(numbers(4)) + 0.5, "FW": numbers(3, 4 * 5 * 5), "FB": numbers(3),
}  # fmt: skip


def test_a_file_as_matlab_writes_it(tmp_path: Path) -> None:
    """exportONNXNetwork: opset 8 by default, one input at a time, names with spaces."""
    model = make(MATLAB_NODES, MATLAB_WEIGHTS, shape=(1, 3, 9, 9), opset=8)
    loaded = load_onnx(write(new_entry(tmp_path), model))
    assert loaded.input == {"height": 9, "width": 9}
    x = numbers(1, 3, 9, 9)
    w = {name: torch.from_numpy(value) for name, value in MATLAB_WEIGHTS.items()}
    y = functional.conv2d(torch.from_numpy(x), w["W"], w["B"], padding=1)
    y = functional.batch_norm(y, w["m"], w["v"], w["s"], w["b"]).relu()
    y = functional.max_pool2d(functional.pad(y, (0, 1, 0, 1)), 2)
    expected = functional.linear(y.flatten(1), w["FW"], w["FB"]).softmax(1)
    torch.testing.assert_close(loaded.module(torch.from_numpy(x)), expected)
    names = [name for name, _ in loaded.module.named_children()]
    assert names == ["conv_1", "batchnorm_1", "relu_1", "maxpool", "Flatten_fc", "fc", "softmax"]
    assert sum(p.numel() for p in loaded.module.parameters()) == sum(
        weight.size for weight in MATLAB_WEIGHTS.values()
    )


def test_a_file_with_channels_last_as_tf2onnx_writes_it(tmp_path: Path) -> None:
    model = make(
        [
            node("Transpose", ["x"], ["t"], "to_first", perm=[0, 3, 1, 2]),
            node("Conv", ["t", "W"], ["c"], "conv2d/Conv2D", auto_pad="SAME_UPPER", strides=[2, 2]),
            node("Transpose", ["c"], ["l"], "to_last", perm=[0, 2, 3, 1]),
            node("ReduceMean", ["l"], ["y"], "mean", axes=[1, 2], keepdims=0),
        ],
        {"W": numbers(4, 3, 3, 3)},
        shape=("unk__6", 10, 13, 3),
        kind=TensorProto.FLOAT,
    )
    loaded = load_onnx(write(new_entry(tmp_path), model))
    assert loaded.input == {"height": 10, "width": 13, "format": "BSSC"}
    x = numbers(2, 10, 13, 3)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    torch.testing.assert_close(loaded.module(torch.from_numpy(x)), torch.from_numpy(expected))
    assert "conv2d/Conv2D" in dict(loaded.module.named_modules())


def test_a_transposed_convolution_whose_extra_output_shows(tmp_path: Path) -> None:
    """Positions that no window reaches hold the bias alone."""
    layer = nn.ConvTranspose2d(3, 4, 2, stride=3, output_padding=(1, 0))
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    nodes = [node("ConvTranspose", ["x", *weights], ["y"], strides=[3, 3], output_padding=[1, 0])]
    network = load_onnx(write(new_entry(tmp_path), make(nodes, weights))).module
    x = torch.from_numpy(numbers(2, *IMAGE[1:]))
    torch.testing.assert_close(network(x), layer(x))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_before_opset_13_is_over_all_later_dimensions(tmp_path: Path, op: str) -> None:
    network = load_onnx(write(new_entry(tmp_path), make([node(op, ["x"], ["y"])], opset=11))).module
    x = torch.from_numpy(numbers(2, *IMAGE[1:]))
    function = torch.softmax if op == "Softmax" else torch.log_softmax
    torch.testing.assert_close(network(x), function(x.flatten(1), 1).reshape(x.shape))


def test_an_input_of_grey_levels_is_not_scaled(tmp_path: Path) -> None:
    nodes = [node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), node("Relu", ["f"], ["y"])]
    loaded = load_onnx(write(new_entry(tmp_path), make(nodes, kind=TensorProto.UINT8)))
    assert loaded.input == {"height": 8, "width": 8, "scale": 1.0}


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_all_kinds_of_numbers_are_computed_in_float32(tmp_path: Path, kind: type) -> None:
    weight = numbers(2, 3, 1, 1)
    onnx_kind = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [
        node("Cast", ["x"], ["h"], to=onnx_kind),
        node("Conv", ["h", "W"], ["c"]),
        node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    loaded = load_onnx(write(new_entry(tmp_path), make(nodes, {"W": weight.astype(kind)})))
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    x = torch.full((1, *IMAGE[1:]), 1e5)  # more than half precision holds
    expected = functional.conv2d(x, torch.from_numpy(weight.astype(kind).astype(np.float32)))
    torch.testing.assert_close(loaded.module(x), expected)


def test_names_of_nodes_become_names_of_modules(tmp_path: Path) -> None:
    """Unique, without dots, and none that a module has already; a name never becomes code."""
    given = [
        "/layer.1/Relu", "Relu", "Relu_1", "Relu", "", "", "forward", "training", "a.b:0",
        'x"),__import__("os").abort(),("', "größe", "/",
    ]  # fmt: skip
    nodes = [
        node("Relu", ["x" if at == 0 else f"v{at - 1}"], [f"v{at}"], name)
        for at, name in enumerate(given)
    ]
    network = load_onnx(write(new_entry(tmp_path), make(nodes, outputs=["v11"]))).module
    names = [name for name, _ in network.named_modules() if name]
    assert names == [
        "layer/1/Relu", "Relu", "Relu_1", "Relu_2", "Relu_3", "Relu_4", "forward_1", "training_1",
        "a/b_0", "x_____import____os__/abort_____", "gr__e", "Relu_5",
    ]  # fmt: skip
    fired: list[str] = []
    for name in names:
        hook = lambda *_, name=name: fired.append(name)  # noqa: E731
        network.get_submodule(name).register_forward_hook(hook)
    network(torch.zeros(1, 3, 8, 8))
    assert fired == names


def test_several_outputs(tmp_path: Path) -> None:
    weights = {"W": numbers(1, 18, 5), "R": numbers(1, 18, 6)}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        node("GRU", ["t", "W", "R"], ["all", "last"], hidden_size=6),
    ]
    model = make(nodes, weights, shape=("N", 5, "T"), outputs=["last", "all"])
    loaded = load_onnx(write(new_entry(tmp_path), model))
    assert loaded.input == {"format": "BCT", "shape": [5, 0]}
    x = numbers(2, 5, 7)
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    for ours, theirs in zip(loaded.module(torch.from_numpy(x)), expected, strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-4, atol=1e-5)


def test_a_branch_that_the_size_decides(tmp_path: Path) -> None:
    """torch's exporter writes an `If` for squeeze() of a size that is free."""

    def branch(name: str, op: str) -> onnx.GraphProto:
        out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        return helper.make_graph([node(op, ["r"], [name])], name, [], out)

    nodes = [
        node("Relu", ["x"], ["r"], "first"),
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Equal", ["n", "one"], ["is_one"]),
        node("If", ["is_one"], ["y"], "choice", then_branch=branch("a", "Neg"),
             else_branch=branch("b", "Sqrt")),
    ]  # fmt: skip
    weights = {"zero": np.array(0), "one": np.array(1)}
    network = load_onnx(write(new_entry(tmp_path), make(nodes, weights))).module
    x = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(network(x), x.sqrt())
    torch.testing.assert_close(network(x[:1]), -x[:1])
    assert "choice.then.Neg" in dict(network.named_modules())


def test_functions_of_the_file_are_written_out(tmp_path: Path) -> None:
    """torch's and other exporters keep layers as functions of domains of their own."""
    function = helper.make_function(
        "mine",
        "Twice",
        ["a"],
        ["b"],
        [node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = make([node("Twice", ["x"], ["y"], domain="mine")], functions=[function],
                 opset_imports=imports)  # fmt: skip
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(load_onnx(write(new_entry(tmp_path), model)).module(x), 2 * x)


def test_weights_in_a_file_beside_the_model(tmp_path: Path) -> None:
    entry = new_entry(tmp_path)
    weight = numbers(4, 3, 1, 1)
    onnx.save_model(
        make([node("Conv", ["x", "W"], ["y"])], {"W": weight}), entry.folder / "model.onnx",
        save_as_external_data=True, location="model.onnx.data", size_threshold=0,
    )  # fmt: skip
    assert (entry.folder / "model.onnx.data").is_file()
    x = torch.rand(2, 3, 8, 8)
    expected = functional.conv2d(x, torch.from_numpy(weight))
    torch.testing.assert_close(load_onnx(entry).module(x), expected)


def test_values_are_let_go_of_as_soon_as_they_are_used(tmp_path: Path) -> None:
    """A forward pass over a long chain holds two of its tensors, not all."""
    nodes = [node("Relu", ["x" if at == 0 else f"v{at - 1}"], [f"v{at}"]) for at in range(30)]
    network = load_onnx(write(new_entry(tmp_path), make(nodes, outputs=["v29"]))).module
    alive: list[int] = []
    references: list[object] = []

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        references.append(weakref.ref(output))
        alive.append(sum(reference() is not None for reference in references))  # type: ignore[operator]

    for child in network.children():
        child.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 8, 8))
    assert max(alive) <= 2


def test_the_card_names_a_source(tmp_path: Path) -> None:
    assert new_entry(tmp_path, CARD).kind == "onnx"
