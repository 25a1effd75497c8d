"""Functions of an ONNX file, and operators that are made of others, are written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["STANDARD", "nodes_of", "written_out"]

STANDARD = ("", "ai.onnx")
MOST_NODES = 100_000
"""Once all is written out: functions that call functions grow without bound, 2 kB to millions."""
MOST_ROUNDS = 8
"""How often operators that are made of others are written out, one inside the other."""
LONGEST_BODY = 100
"""Nodes of the standard's own functions have fewer."""


def written_out(model: Any, known: frozenset[str], onnx: Any) -> Any:
    """The model without functions, and of operators of `known` where possible.

    model: that passed ONNX's own check. Raises ValueError for more than MOST_NODES nodes.
    """
    _check_length(_length(model))
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


def _length(model: Any) -> int:
    """How many nodes there are with every function written out; counted, not made."""
    bodies = {(one.domain, one.name): one for one in model.functions}
    lengths: dict[tuple[str, str], int] = {}
    # a function is counted when all that it calls have been; that none calls itself, ONNX's own
    # check has seen
    waiting = list(bodies)
    while waiting:
        key = waiting[-1]
        calls = {(node.domain, node.op_type) for node in nodes_of(bodies[key])}
        missing = (calls & bodies.keys()) - lengths.keys()
        if missing:
            waiting += missing
        else:
            lengths[key] = _sum(bodies[key], lengths)
            waiting.pop()
    return _sum(model.graph, lengths)


def _sum(graph: Any, lengths: dict[tuple[str, str], int]) -> int:
    return sum(lengths.get((node.domain, node.op_type), 1) for node in nodes_of(graph))


def _check_length(nodes: int) -> None:
    if nodes > MOST_NODES:
        raise ValueError(f"written out, it has more than {MOST_NODES} operators")


def _has_body(op: str, opset: int, onnx: Any) -> bool:
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
