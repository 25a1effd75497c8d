"""Every operator against the test cases of the ONNX project itself, which its wheel brings."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from onnx.numpy_helper import to_array
from torch import Tensor

from workers.sources.onnx.functions import written_out
from workers.sources.onnx.graph import Graph, read_nodes
from workers.sources.onnx.network import Network
from workers.sources.onnx.operators import OPERATORS, NotTranslated

KNOWN = frozenset({*OPERATORS, "Constant"})
# other than the standard on purpose: dropout never drops; 16-bit integers are held in 64 bits
DIFFERENT = ("test_training_dropout", "test_bitwise_not_3d")
FOREIGN = ("empty_set", "_to_FLOAT8", "_to_FLOAT4", "INT4", "INT2")
NO_GRADIENT = {"ConstantOfShape", "EyeLike", "Hardmax", "OneHot", "Range"}


@cache
def cases() -> dict[str, list[Any]]:
    """ONNX's cases by their operator; those whose single node is written out have several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, while expected values are computed
        from onnx.backend.test.case.node import collect_testcases

        found = collections.defaultdict(list)
        for case in collect_testcases(None):
            nodes = case.model.graph.node if case.model else ()
            if len(nodes) == 1 and nodes[0].domain == "":
                found[nodes[0].op_type].append(case)
    return dict(found)


def as_torch(value: Any) -> Any:
    """Numbers as the worker holds them: all floating-point ones in float32."""
    if isinstance(value, list):
        return [as_torch(item) for item in value]
    array = as_numpy(value)
    if array.dtype.kind in "fV" or "float" in str(array.dtype):
        array = array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array))


def as_numpy(value: Any) -> np.ndarray:
    return to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def translated(case: Any) -> Graph:
    model = written_out(case.model, KNOWN, onnx)
    return read_nodes(model.graph, max(item.version for item in model.opset_import))


def ran(case: Any) -> Iterator[tuple[Any, Any]]:
    """Outputs of ours and of ONNX: with all inputs given, and with all but the first constant."""
    graph = translated(case)
    given, expected = case.data_sets[0]
    inputs = [as_torch(value) for value in given]
    named = dict(zip(graph.inputs, inputs, strict=True))
    first = graph.inputs[:1]
    fixed = {k: v for k, v in named.items() if k not in first and isinstance(v, Tensor)}
    left = tuple(name for name in graph.inputs if name not in fixed)
    for some in (graph, replace(graph, constants={**graph.constants, **fixed}, inputs=left)):
        with torch.no_grad():
            got = Network(some)(*(named[name] for name in some.inputs))
        outputs = got if isinstance(got, tuple) else (got,)
        yield from zip(outputs, expected, strict=True)


def check(case: Any) -> None:
    for ours, theirs in ran(case):
        if not isinstance(ours, Tensor):
            continue  # a sequence of tensors
        expected = as_numpy(theirs)
        coarse = expected.dtype.itemsize < 4 and expected.dtype.kind not in "iub"
        assert tuple(ours.shape) == expected.shape, case.name
        np.testing.assert_allclose(
            ours.numpy().astype(float),
            expected.astype(float),
            rtol=2e-2 if coarse else 1e-3,
            atol=2e-2 if coarse else 1e-5,
            err_msg=case.name,
        )


def is_foreign(case: Any) -> bool:
    """Of strings, numbers of a few bits, or nothing: what no network that is explained does."""
    values = [as_numpy(v) for v in case.data_sets[0][0] if not isinstance(v, list)]
    return any(v.dtype.kind in "OU" for v in values) or any(part in case.name for part in FOREIGN)


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_an_operator_computes_what_onnx_says(op: str) -> None:
    count = 0
    for case in cases().get(op, ()):
        if case.name.startswith(DIFFERENT) or is_foreign(case):
            continue
        try:
            check(case)
        except NotTranslated:
            continue
        count += 1
    # these have no case: older than the cases, or their cases use sequences in several nodes
    without = {"BitwiseNot", "ConcatFromSequence", "GlobalLpPool", "Scatter", "SequenceAt",
               "SequenceConstruct"}  # fmt: skip
    assert count or op in without


@pytest.mark.parametrize("op", ["AffineGrid", "RMSNormalization", "RotaryEmbedding", "Attention"])
def test_an_operator_that_is_made_of_others(op: str) -> None:
    plain = [case for case in cases()[op] if "past" not in case.name and "pad" not in case.name]
    for case in plain[:12]:
        check(case)


def old_models() -> list[Path]:
    """Of PyTorch's first exporters, opsets 6 to 12, with inputs and outputs beside them."""
    return sorted((Path(onnx.__file__).parent / "backend/test/data").glob("pytorch-*/*/model.onnx"))


@pytest.mark.parametrize("path", old_models(), ids=lambda path: path.parent.name)
def test_a_network_of_an_old_opset(path: Path) -> None:
    model = onnx.load(path)
    opset = max(item.version for item in model.opset_import)
    graph = read_nodes(written_out(model, KNOWN, onnx).graph, opset)
    data = path.parent / "test_data_set_0"

    def stored(kind: str, at: int) -> np.ndarray:
        return to_array(onnx.load_tensor(data / f"{kind}_{at}.pb")).copy()

    inputs = [torch.from_numpy(stored("input", at)) for at in range(len(graph.inputs))]
    with torch.no_grad():
        got = Network(graph)(*inputs)
    for at, ours in enumerate(got if isinstance(got, tuple) else (got,)):
        np.testing.assert_allclose(ours.numpy(), stored("output", at), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("op", sorted(set(OPERATORS) - NO_GRADIENT))
def test_gradients_flow_through_every_operator(op: str) -> None:
    """None leaves autograd's graph on the way."""
    for case in cases().get(op, ()):
        given = [as_torch(value) for value in case.data_sets[0][0]] if not is_foreign(case) else []
        if not given or not isinstance(given[0], Tensor) or not given[0].is_floating_point():
            continue
        try:
            network = Network(translated(case))
        except NotTranslated:
            continue
        given[0].requires_grad_()
        got = network(*given)
        first = got[0] if isinstance(got, tuple | list) else got
        if isinstance(first, Tensor) and first.is_floating_point():
            assert first.requires_grad, case.name
