"""An ONNX model as plain Python: nodes, constants, one input and the outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camserve.errors import UnsupportedModel
from workers.sources.onnx.operators import Node, NotTranslated

__all__ = ["Graph", "Input", "read_graph", "read_nodes"]

BYTES = 2
"""The number of uint8 among ONNX's types: pictures as they are in a file."""
_FLOATING = (1, 10, 11, 16)  # float32, float16, float64, bfloat16
# names that a network has already
_TAKEN = {
    "initializers", "_choose", "_constants", "_inputs", "_outputs", "_steps",
    *dir(torch.nn.Module()),
}  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they run. A branch of an `If` has no inputs: it uses names of
    the graph around it."""

    nodes: tuple[Node, ...]
    constants: dict[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Input:
    """shape: with None for a size that is free. grey_levels: numbers 0 to 255, as in a picture."""

    shape: tuple[int | None, ...]
    grey_levels: bool


def read_graph(model: Any, name: str) -> tuple[Graph, Input]:
    """Raises UnsupportedModel for several inputs or one of another type, NotTranslated for
    constants of kinds that torch does not have."""
    opsets = {item.domain: item.version for item in model.opset_import}
    graph = read_nodes(model.graph, opsets.get("", opsets.get("ai.onnx", 1)))
    inputs = [value for value in model.graph.input if value.name in graph.inputs]
    if len(inputs) != 1:
        raise UnsupportedModel(
            f"model {name!r}: the network takes {len(inputs)} inputs ({', '.join(graph.inputs)}), "
            "and camserve explains networks of one: export it with the others fixed"
        )
    tensor_type = inputs[0].type.tensor_type
    if tensor_type.elem_type not in (*_FLOATING, BYTES):
        raise UnsupportedModel(
            f"model {name!r}: the input {inputs[0].name!r} is not of floating-point numbers: "
            "camserve explains pictures, volumes and sequences of measurements, not of tokens; "
            "export the network from its first float tensor on (after the embedding)"
        )
    return graph, Input(_shape(tensor_type), grey_levels=tensor_type.elem_type == BYTES)


def read_nodes(graph: Any, opset: int) -> Graph:
    """A GraphProto, with all its inputs. Raises NotTranslated."""
    if graph.sparse_initializer:
        raise NotTranslated("sparse weights")
    constants = {tensor.name: constant(tensor) for tensor in graph.initializer}
    taken = dict.fromkeys(_TAKEN, 0)
    nodes = [
        Node(
            op=node.op_type,
            opset=opset,
            name=_name(node, taken),
            attributes={item.name: _attribute(item, opset) for item in node.attribute},
            inputs=tuple(node.input),
            outputs=tuple(node.output),
        )
        for node in graph.node
    ]
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    return Graph(tuple(nodes), constants, inputs, tuple(value.name for value in graph.output))


def constant(tensor: Any) -> Tensor:
    """A TensorProto in torch: whole numbers as they are, all floating-point ones in float32."""
    from onnx import numpy_helper  # noqa: PLC0415 - optional

    values = numpy_helper.to_array(tensor)
    if values.dtype.kind in "bi" and values.dtype.type.__module__ == "numpy":
        return torch.from_numpy(values.copy())
    if values.dtype.kind == "u":
        return torch.from_numpy(values.astype(np.uint8 if values.dtype.itemsize == 1 else np.int64))
    try:  # float16, float64, bfloat16, 8-bit floats, 4-bit integers
        return torch.from_numpy(values.astype(np.float32))
    except (TypeError, ValueError) as error:
        raise NotTranslated(f"constants of the type {values.dtype}") from error


def _shape(tensor_type: Any) -> tuple[int | None, ...]:
    # some exporters write 0 or -1 for a size that is free
    return tuple(size.dim_value if size.dim_value > 0 else None for size in tensor_type.shape.dim)


def _name(node: Any, taken: dict[str, int]) -> str:
    """A name for the node's module, as onnx2torch would give it: unique, readable, without dots.

    Other characters than these would be awkward in a URL or a shell; a colon says which of a
    layer's tensors is meant. taken: how often each name was asked for before.
    """
    plain = re.sub(r"[^\w/+\-]", "_", (node.name or node.op_type).replace(".", "/"), flags=re.ASCII)
    first = plain.lstrip("/")[:250] or node.op_type
    name = first
    while name in taken:
        taken[first] += 1
        name = f"{first}_{taken[first]}"
    taken[name] = 0
    return name


def _attribute(attribute: Any, opset: int) -> Any:
    from onnx.helper import get_attribute_value  # noqa: PLC0415 - optional

    value = get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [item.decode(errors="replace") for item in value]
    if attribute.HasField("t"):
        return constant(value)
    return read_nodes(value, opset) if attribute.HasField("g") else value
