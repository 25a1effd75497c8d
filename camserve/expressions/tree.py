"""What an expression is once it is read: a tree of frozen nodes that know their columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "Binary",
    "Call",
    "Comparison",
    "Expression",
    "Index",
    "Node",
    "Number",
    "Position",
    "Slice",
    "Unary",
    "Variable",
    "operands",
    "walk",
]


@dataclass(frozen=True, slots=True)
class _Place:
    """Columns, counted from 1: `text[start - 1 : end]` is the whole of it, parentheses included.

    `column` is the character that stands for it: its operator, the first of a function's name, the
    `[` of an index. A fault of this node points there.
    """

    start: int
    end: int
    column: int


@dataclass(frozen=True, slots=True)
class Position(_Place):
    """An integer, as an index or as an axis: from 0, or from the end if negative."""

    value: int


@dataclass(frozen=True, slots=True)
class Slice(_Place):
    """`first:stop:step` with Python's meaning (stop is left out); step >= 1."""

    first: int | None
    stop: int | None
    step: int


@dataclass(frozen=True, slots=True)
class Number(_Place):
    """Finite and not negative: a sign is a node of its own."""

    value: float


@dataclass(frozen=True, slots=True)
class Variable(_Place):
    """`x`."""


@dataclass(frozen=True, slots=True)
class Unary(_Place):
    """`+` or `-`."""

    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(_Place):
    """`+`, `-`, `*` or `/`, element by element."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Comparison(_Place):
    """A mask of 0 and 1, constant for the gradient: `==`, `!=`, `<`, `<=`, `>` or `>=`."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Index(_Place):
    """Each item takes one axis, from the first on; an integer drops it."""

    operand: Node
    items: tuple[Position | Slice, ...]


@dataclass(frozen=True, slots=True)
class Call(_Place):
    """`function` is one of FUNCTIONS; `axis` is None where none was written."""

    function: str
    argument: Node
    axis: Position | None


Node = Number | Variable | Unary | Binary | Comparison | Index | Call


@dataclass(frozen=True, slots=True)
class Expression:
    """A text that parses, its tree, and the number of the tree's nodes."""

    text: str
    root: Node
    nodes: int


def walk(root: Node) -> Iterator[Node]:
    """All nodes, each before its operands, from left to right."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(operands(node))


def operands(node: Node) -> tuple[Node, ...]:
    """What a node computes its value from, from left to right."""
    match node:
        case Binary() | Comparison():
            return (node.left, node.right)
        case Unary() | Index():
            return (node.operand,)
        case Call():
            return (node.argument,)
        case Number() | Variable():
            return ()
