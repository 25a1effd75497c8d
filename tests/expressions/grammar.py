"""Random expressions, and the same tree once more by another route: Python's own parser."""

from __future__ import annotations

import ast
from typing import Any

from hypothesis import strategies as st

from camserve.expressions import (
    FUNCTIONS,
    Binary,
    Call,
    Comparison,
    Index,
    Node,
    Number,
    Position,
    Slice,
    Unary,
    Variable,
    Works,
)

__all__ = ["generated", "mutated", "python_tree", "scalars", "soup", "tree"]

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
NUMBERS = ("0", "1", "2", "0.5", ".25", "3.", "1e3", "1E-3", "2.5e+2", "1e-12", "1e308")
WITH_AXIS = tuple(name for name, works in FUNCTIONS.items() if works is not Works.ON_EACH)
SPACE = st.sampled_from(("", "", "", " ", "\t", "\n", "  "))
TOKENS = (
    *("x", "[", "]", "(", ")", ",", ":", "+", "-", "*", "/", *COMPARISONS, *NUMBERS, *FUNCTIONS),
    *(" ", "=", "!", ".", "**", "1e999", "y", "_", "x[0]", "x[:, 1]", "sum(x", ", 0)", "\x00", "é"),
)


def _joined(*parts: str | st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    drawn = (st.just(part) if isinstance(part, str) else part for part in parts)
    return st.tuples(*drawn).map("".join)


_DIGITS = st.integers(0, 6).map(str)
_INDEX = _joined(st.sampled_from(("", "", "-", "+", "- ")), _DIGITS)
_SLICE = st.sampled_from((":", "1:", ":2", "0:3", "1:9", "-2:", ":-1", "-9:-1", "::2", "0:5:3"))
_ITEMS = st.lists(_INDEX | _SLICE, min_size=1, max_size=3).map(", ".join)
_LEAVES = st.sampled_from(("x", "x", "x", "x[0]", "x[-1]")) | st.sampled_from(("x[1, 0]", *NUMBERS))


def _texts(depth: int) -> st.SearchStrategy[str]:
    """Expressions of at most `depth` levels."""
    if depth == 0:
        return _LEAVES
    part = st.deferred(lambda: _texts(depth - 1))
    pair = _joined(part, SPACE, st.sampled_from("+-*/"), SPACE, part)
    return st.one_of(
        _LEAVES,
        pair,
        pair,
        _joined("(", pair, ")"),
        _joined("(", part, SPACE, st.sampled_from(COMPARISONS), SPACE, part, ")"),
        _joined(st.sampled_from("+-"), SPACE, part),
        _joined(st.sampled_from(tuple(FUNCTIONS)), SPACE, "(", part, SPACE, ")"),
        _joined(st.sampled_from(WITH_AXIS), "(", part, ", ", st.sampled_from("012"), ")"),
        _joined(st.sampled_from(WITH_AXIS), "(", part, ",-", st.sampled_from("123"), ")"),
        _joined("(", part, ")", SPACE, "[", _ITEMS, "]"),
    )


generated: st.SearchStrategy[str] = st.integers(1, 4).flatmap(_texts)
"""Texts of the language; not all of them have a gradient, or a value."""

scalars: st.SearchStrategy[str] = st.one_of(
    _joined(st.sampled_from(("sum(", "mean(", "norm(x) + max(", "-norm(")), generated, " * x)"),
    _joined("x[0, 0] + sum(", generated, ")"),
    _joined("sum(x) / norm(x + ", generated, ")"),
)
"""Texts of the language with a gradient, and with a value where shapes and numbers allow it."""

soup: st.SearchStrategy[str] = st.lists(st.sampled_from(TOKENS), max_size=40).map("".join)
"""The language's own tokens in any order."""


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A text of the language with up to two places left out, put in, or changed."""
    text = draw(scalars)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(text)))
        put = draw(st.sampled_from((*TOKENS, "")) | st.characters(exclude_categories=()))
        text = text[:place] + put + text[place + draw(st.integers(0, 2)) :]
    return text


def tree(node: Node) -> Any:
    """A node as nested tuples, without columns."""
    match node:
        case Number():
            return node.value
        case Variable():
            return "x"
        case Unary():
            return (node.operator, tree(node.operand))
        case Binary() | Comparison():
            return (node.operator, tree(node.left), tree(node.right))
        case Index():
            return ("[]", tree(node.operand), *map(_item, node.items))
        case Call():
            return (node.function, tree(node.argument), node.axis and node.axis.value)


def _item(item: Position | Slice) -> Any:
    return item.value if isinstance(item, Position) else (item.first, item.stop, item.step)


_SIGNS: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.UAdd: "+",
    ast.USub: "-",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


def python_tree(text: str) -> Any:
    """What Python reads in a text of the language: its syntax is a part of Python's."""
    return _translated(ast.parse(f"({text})", mode="eval").body)


def _translated(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            found: Any = float(value)
        case ast.Name():
            found = node.id
        case ast.UnaryOp():
            found = (_SIGNS[type(node.op)], _translated(node.operand))
        case ast.BinOp():
            found = (_SIGNS[type(node.op)], _translated(node.left), _translated(node.right))
        case ast.Compare(ops=[operator], comparators=[right]):
            found = (_SIGNS[type(operator)], _translated(node.left), _translated(right))
        case ast.Call(func=ast.Name(id=name), args=[argument, *rest]):
            found = (name, _translated(argument), _integer(rest[0]) if rest else None)
        case ast.Subscript():
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            found = ("[]", _translated(node.value), *map(_python_item, items))
        case _:
            raise AssertionError(ast.dump(node))
    return found


def _python_item(node: ast.expr) -> Any:
    if not isinstance(node, ast.Slice):
        return _integer(node)
    first, stop = (part and _integer(part) for part in (node.lower, node.upper))
    return (first, stop, _integer(node.step) if node.step else 1)


def _integer(node: ast.expr) -> int:
    return int(ast.literal_eval(node))
