"""Functions of an ONNX file, and operators that are made of others, are written out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["STANDARD", "nodes_of", "written_out"]

STANDARD = ("", "ai.onnx")
MOST_NODES = 100_000
"""Once all is written out: functions that call functions grow without bound, 2 kB to millions."""
MOST_BYTES = 2**28
"""Of what is written out in place of calls: a body may hold numbers, and a call a long name."""
MOST_ROUNDS = 8
"""How often operators that are made of others are written out, one inside the other."""
LONGEST_BODY = 100
"""Nodes of the standard's own functions have fewer."""

_Key = tuple[str, str, str]
"""Of a function: its domain, name and overload."""


def written_out(model: Any, known: frozenset[str], onnx: Any) -> Any:
    """The model without functions, and of operators of `known` where possible.

    model: that passed ONNX's own check. Raises ValueError for more than MOST_NODES nodes, and for
    functions that take more than MOST_BYTES, or graphs.
    """
    _check_functions(model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opset = next((item.version for item in model.opset_import if item.domain in STANDARD), 1)
    for _ in range(MOST_ROUNDS):
        made_of_others = [
            (node.domain, node.op_type)
            for node in nodes_of(model.graph)
            if node.domain in STANDARD
            and node.op_type not in known
            and _has_body(node.op_type, opset, onnx)
        ]
        if not made_of_others:
            break
        _check_length(LONGEST_BODY * len(made_of_others))
        model = onnx.inliner.inline_selected_functions(
            model, sorted(set(made_of_others)), inline_schema_functions=True
        )
    return model


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes, also those inside of others (`If`)."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def _check_functions(model: Any) -> None:
    """Raises ValueError for functions that would grow too large; counts, and writes nothing out."""
    bodies = {(one.domain, one.name, one.overload): one for one in model.functions}
    sizes: dict[_Key, _Size] = {}
    # a function is measured when all that it calls have been; that none calls itself, ONNX's own
    # check has seen
    waiting = list(bodies)
    while waiting:
        key = waiting[-1]
        calls = {_callee(node) for node in nodes_of(bodies[key])}
        missing = (calls & bodies.keys()) - sizes.keys()
        if missing:
            waiting += missing
        else:
            _check_attributes(bodies[key])
            sizes[key] = _size(bodies[key], sizes)
            waiting.pop()
    whole = _size(model.graph, sizes)
    _check_length(whole.nodes)
    if whole.bytes - sum(node.ByteSize() for node in nodes_of(model.graph)) > MOST_BYTES:
        raise ValueError("written out, its functions take more than 256 MB")


def _check_attributes(function: Any) -> None:
    """A graph that is handed on can hold itself twice, and that again twice."""
    for node in nodes_of(function):
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.type in (attribute.GRAPH, attribute.GRAPHS):
                raise ValueError(f"its function {function.name!r} takes a graph as an attribute")


@dataclass(frozen=True)
class _Size:
    """Of something written out. places: where a caller's name or attribute may be put in."""

    nodes: int
    places: int
    bytes: int


def _size(graph: Any, sizes: dict[_Key, _Size]) -> _Size:
    """At most; `sizes` has all functions that are called."""
    nodes = places = length = 0
    for node in nodes_of(graph):
        called = sizes.get(_callee(node), _Size(1, 0, 0))
        nodes += called.nodes
        places += called.places + len(node.input) + len(node.output) + len(node.attribute)
        length += called.bytes + node.ByteSize() * (1 + called.places)
    return _Size(nodes, places, length)


def _callee(node: Any) -> _Key:
    return node.domain, node.op_type, node.overload


def _check_length(nodes: int) -> None:
    if nodes > MOST_NODES:
        raise ValueError(f"written out, it has more than {MOST_NODES} operators")


def _has_body(op: str, opset: int, onnx: Any) -> bool:
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
