"""`onnx:`: functions of the file's own, which a small file may make very large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camserve.errors import UnsupportedModel
from tests.workers.onnx_files import make, new_entry, node, write
from workers.repository import Entry
from workers.sources.onnx import load_onnx

IMPORTS = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return new_entry(tmp_path)


def function(name: str, *nodes: onnx.NodeProto, **more: object) -> onnx.FunctionProto:
    """From a to c."""
    return helper.make_function("mine", name, ["a"], ["c"], nodes, IMPORTS, **more)


def call(name: str, given: str, found: str, **attributes: object) -> onnx.NodeProto:
    return node(name, [given], [found], domain="mine", **attributes)


def calling(*functions: onnx.FunctionProto, **attributes: object) -> onnx.ModelProto:
    """A model that is a call of f0."""
    first = call("f0", "x", "y", **attributes)
    return make([first], functions=functions, opset_imports=IMPORTS)


def laughing(depth: int, last: str = "Relu") -> onnx.ModelProto:
    """Functions that call the next one twice: 2^depth operators once they are written out."""
    inner = node(last, ["a"], ["c"], domain="" if last == "Relu" else "mine")
    return calling(
        *(
            function(f"f{at}", call(f"f{at + 1}", "a", "b"), call(f"f{at + 1}", "b", "c"))
            for at in range(depth)
        ),
        function(f"f{depth}", inner),
    )


def test_functions_that_grow_without_bound_are_counted_before_they_are_written_out(
    entry: Entry,
) -> None:
    network = load_onnx(write(entry, laughing(8))).module
    assert len(list(network.children())) == 2**8
    with pytest.raises(UnsupportedModel, match="more than 100000 operators"):
        load_onnx(write(entry, laughing(60)))


def test_functions_of_one_name_are_told_apart(entry: Entry) -> None:
    """By their overload: the small one of each name is not what is called."""
    model = laughing(60)
    for one in (model.graph, *model.functions):
        for inner in one.node:
            inner.overload = "large" if inner.domain else ""
    for one in model.functions:
        one.overload = "large"
    for at in range(61):
        small = model.functions.add()
        small.CopyFrom(function(f"f{at}", node("Relu", ["a"], ["c"])))
        small.overload = "small"
    model.ir_version = 10
    with pytest.raises(UnsupportedModel, match="more than 100000 operators"):
        load_onnx(write(entry, model))


def test_functions_that_call_themselves(entry: Entry) -> None:
    with pytest.raises(UnsupportedModel, match="Cycle detected"):
        load_onnx(write(entry, laughing(3, last="f1")))


def test_a_function_that_takes_a_graph(entry: Entry) -> None:
    """It may put it twice into another graph, which the next one puts twice into another."""
    choice = node("If", ["t"], ["c"])
    for name in ("then_branch", "else_branch"):
        choice.attribute.add(name=name, ref_attr_name="g", type=onnx.AttributeProto.GRAPH)
    true = node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(True)))
    leaf = helper.make_graph(
        [node("Identity", ["x"], ["leaf"])], "leaf", [],
        [helper.make_tensor_value_info("leaf", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = calling(function("f0", true, choice, attributes=["g"]), g=leaf)
    with pytest.raises(UnsupportedModel, match="'f0' takes a graph as an attribute"):
        load_onnx(write(entry, model))


def test_numbers_that_every_call_repeats(entry: Entry) -> None:
    numbers = node("Constant", [], ["k"], value=numpy_helper.from_array(np.zeros(250_000)))
    model = calling(function("f0", numbers, node("Relu", ["a"], ["c"])))
    del model.graph.node[:]
    model.graph.node.extend(call("f0", f"v{at}" if at else "x", f"v{at + 1}") for at in range(1000))
    model.graph.node.append(node("Identity", ["v1000"], ["y"]))
    with pytest.raises(UnsupportedModel, match="its functions take more than 256 MB"):
        load_onnx(write(entry, model))


def test_a_long_name_that_stands_in_many_places(entry: Entry) -> None:
    name = "z" * 20_000
    model = calling(function("f0", node("Sum", ["a"] * 60_000, ["c"])))
    model.graph.node[0].input[0] = name
    model.graph.node.insert(0, node("Identity", ["x"], [name]))
    with pytest.raises(UnsupportedModel, match="its functions take more than 256 MB"):
        load_onnx(write(entry, model))
