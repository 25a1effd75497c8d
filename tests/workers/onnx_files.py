"""ONNX files made by hand, and by torch's two exporters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.workers.cards import entry_of, write_model
from workers.repository import Entry

__all__ = ["CARD", "IMAGE", "Entry", "exported", "make", "new_entry", "node", "write"]

CARD = 'source = "onnx:model.onnx"'
IMAGE = ("N", 3, 8, 8)
node = helper.make_node


def new_entry(folder: Path, card: str = CARD) -> Entry:
    return entry_of(write_model(folder, "m", card))


def make(
    nodes: Sequence[Any],
    weights: dict[str, np.ndarray] | None = None,
    *,
    shape: Sequence[int | str | None] = IMAGE,
    kind: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    """A model from the input x to `outputs`; its weights are initialisers."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    imports = more.pop("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, opset_imports=imports, ir_version=8, **more)


def write(entry: Entry, model: onnx.ModelProto) -> Entry:
    (entry.folder / "model.onnx").write_bytes(model.SerializeToString())
    return entry


def exported(entry: Entry, module: nn.Module, example: torch.Tensor, opset: int) -> Entry:
    """By the TorchScript-based exporter, from opset 18 on by the torch.export-based one; the
    batch size is free."""
    path = entry.folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the exporters' own
        if opset < 18:
            torch.onnx.export(
                module.eval(), (example,), path, opset_version=opset, dynamo=False,
                input_names=["x"], dynamic_axes={"x": {0: "n"}},
            )  # fmt: skip
        else:
            torch.onnx.export(
                module.eval(), (example,), path, opset_version=opset, dynamo=True, verbose=False,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            )  # fmt: skip
    return entry
