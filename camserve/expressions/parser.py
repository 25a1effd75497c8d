"""From a text to a tree: recursive descent, with a precedence for each operator."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

from camserve.errors import InvalidExpression, near_names
from camserve.expressions.cursor import Cursor
from camserve.expressions.functions import FUNCTIONS, Works
from camserve.expressions.gradient import check_gradient
from camserve.expressions.tokens import Token
from camserve.expressions.tree import (
    Binary,
    Call,
    Comparison,
    Expression,
    Index,
    Node,
    Number,
    Position,
    Slice,
    Unary,
    Variable,
)

__all__ = ["MAX_AXES", "MAX_LENGTH", "MAX_NESTING", "MAX_NODES", "parse"]

MAX_LENGTH = 2000
"""Characters: room enough for MAX_NODES."""

MAX_NODES = 200
"""Numbers, `x`, operators, indices and calls of one expression; parentheses do not count."""

MAX_NESTING = 32
"""Parentheses, calls, signs and indices within each other: no text can exhaust Python's stack."""

MAX_AXES = 8
"""Integers and slices of one index: more than an output has."""

_COMPARES, _ADDS, _MULTIPLIES = 1, 2, 3
_PRECEDENCE = (
    dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), _COMPARES)
    | dict.fromkeys(("+", "-"), _ADDS)
    | dict.fromkeys(("*", "/"), _MULTIPLIES)
)

_OF_TWO = {
    "max": "; the max of two numbers a and b is b + relu(a - b)",
    "min": "; the min of two numbers a and b is a - relu(a - b)",
}

_ANY = TypeVar("_ANY", bound=Node)


def parse(text: str, *, max_nodes: int = MAX_NODES) -> Expression:
    """The tree of an expression; the same text gives an equal tree.

    max_nodes: a service may allow fewer than MAX_NODES, and nobody more. Raises InvalidExpression,
    with the column and the remedy, for what is not of the language, for more than MAX_LENGTH, those
    nodes or MAX_NESTING, and where no gradient would reach `x`.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidExpression(
            f"an expression has at most {MAX_LENGTH} characters, this one {len(text)}",
            text[:MAX_LENGTH],
            MAX_LENGTH + 1,
        )
    parser = _Parser(text, min(max_nodes, MAX_NODES))
    root = parser.whole()
    check_gradient(root, text)
    return Expression(text, root, parser.nodes)


class _Parser:
    """One method for each rule of the grammar; `nodes` counts what it has built."""

    def __init__(self, text: str, max_nodes: int) -> None:
        self._cursor = Cursor(text)
        self._max_nodes = max_nodes
        self._nesting = 0
        self.nodes = 0

    def whole(self) -> Node:
        root = self._operators(_COMPARES)
        if self._cursor.token.kind != "end":
            raise self._cursor.unexpected()
        return root

    def _operators(self, weakest: int) -> Node:
        """Values joined by operators that bind at least as strongly as `weakest`."""
        left = self._unary()
        while (precedence := self._precedence()) >= weakest:
            operator = self._cursor.take()
            right = self._operators(precedence + 1)
            kind = Comparison if precedence == _COMPARES else Binary
            left = self._count(
                kind(left.start, right.end, operator.start, operator.text, left, right)
            )
            if precedence == self._precedence() == _COMPARES:
                raise self._cursor.fail(
                    "comparisons are not chained: write (0 < x) * (x < 1) for 0 < x < 1"
                )
        return left

    def _precedence(self) -> int:
        return _PRECEDENCE.get(self._cursor.token.text, 0)

    def _unary(self) -> Node:
        if not self._cursor.at("+", "-"):
            return self._postfix()
        self._enter(self._cursor.token)
        sign = self._cursor.take()
        operand = self._unary()
        self._nesting -= 1
        return self._count(Unary(sign.start, operand.end, sign.start, sign.text, operand))

    def _postfix(self) -> Node:
        value = self._value()
        nesting = self._nesting
        while self._cursor.at("["):
            self._enter(self._cursor.token)
            opening = self._cursor.take()
            items = [self._item()]
            while self._cursor.at(","):
                if len(items) == MAX_AXES:
                    raise self._cursor.fail(f"an index takes at most {MAX_AXES} axes")
                self._cursor.take()
                items.append(self._item())
            self._cursor.close(opening, "]")
            value = self._count(
                Index(value.start, self._cursor.end, opening.start, value, tuple(items))
            )
        self._nesting = nesting
        return value

    def _value(self) -> Node:
        token = self._cursor.token
        if token.kind == "number":
            return self._number()
        if token.kind == "name":
            return self._name()
        if not self._cursor.at("("):
            raise self._cursor.no_value()
        self._enter(token)
        self._cursor.take()
        value = self._operators(_COMPARES)
        self._cursor.close(token, ")")
        self._nesting -= 1
        return replace(value, start=token.start, end=self._cursor.end)

    def _number(self) -> Number:
        token = self._cursor.token
        value = float(token.text)
        if not math.isfinite(value):
            raise self._cursor.fail(f"{token.quoted} is too large: numbers end at 1.79e308")
        self._cursor.take()
        return self._count(Number(token.start, token.end, token.start, value))

    def _name(self) -> Variable | Call:
        token = self._cursor.token
        if token.text not in FUNCTIONS and token.text != "x":
            near = near_names(token.text, FUNCTIONS if len(token.text) > 1 else "x")
            known = f"did you mean {near[0]!r}?" if near else f"there are x, {', '.join(FUNCTIONS)}"
            raise self._cursor.fail(f"there is no name {token.quoted}; {known}", near=near)
        self._cursor.take()
        if token.text != "x":
            return self._call(token)
        if self._cursor.at("("):
            raise self._cursor.fail("an index stands in square brackets, and from 0: x[0]")
        return self._count(Variable(token.start, token.end, token.start))

    def _call(self, name: Token) -> Call:
        cursor, function = self._cursor, name.text
        if not cursor.at("("):
            raise cursor.fail(f"{function} is a function: write {function}(x)", name.start)
        self._enter(cursor.token)
        opening = cursor.take()
        argument = self._operators(_COMPARES)
        axis = self._axis(function) if cursor.at(",") else None
        cursor.close(opening, ")")
        self._nesting -= 1
        return self._count(Call(name.start, cursor.end, name.start, function, argument, axis))

    def _axis(self, function: str) -> Position:
        if FUNCTIONS[function] is Works.ON_EACH:
            raise self._cursor.fail(f"{function} takes one argument")
        self._cursor.take()
        axis = self._cursor.integer()
        if axis is None:
            remedy = _OF_TWO.get(function, "")
            raise self._cursor.fail(
                f"the second argument of {function} is an axis, such as {function}(x, 0){remedy}"
            )
        if self._cursor.at(","):
            raise self._cursor.fail(f"{function} takes an argument and one axis")
        return axis

    def _item(self) -> Position | Slice:
        """An index or a slice. A slice that no axis can fill is refused here already."""
        cursor = self._cursor
        start = cursor.token.start
        first = None if cursor.at(":") else self._index()
        if first is not None and not cursor.at(":"):
            return first
        cursor.take()
        stop = None if cursor.at(":", ",", "]") else self._index()
        step = None
        if cursor.at(":"):
            cursor.take()
            step = None if cursor.at(",", "]") else self._index()
        if step is not None and step.value < 1:
            raise cursor.fail("a step is at least 1", step.start)
        low, high = (first.value if first else None), (stop.value if stop else None)
        if high is not None and (low or 0) >= high and ((low or 0) < 0) == (high < 0):
            raise cursor.fail(
                f"no index is from {low or 0} up to, but not including, {high}", start
            )
        return Slice(start, cursor.end, start, low, high, step.value if step else 1)

    def _index(self) -> Position:
        index = self._cursor.integer()
        if index is None:
            detail = "an index is a whole number, such as 0 or -1, or a slice, such as 1:3"
            if self._cursor.token.kind == "name":
                detail += "; a mask is a factor instead: sum(x * (x > 0))"
            raise self._cursor.fail(detail)
        return index

    def _enter(self, token: Token) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._cursor.fail(
                f"more than {MAX_NESTING} parentheses, calls, signs and indices within each other: "
                "write it flatter",
                token.start,
            )

    def _count(self, node: _ANY) -> _ANY:
        self.nodes += 1
        if self.nodes > self._max_nodes:
            raise self._cursor.fail(
                f"an expression has at most {self._max_nodes} numbers, names, operators and "
                "indices: use slices and functions, such as sum(x[2:9])",
                node.column,
            )
        return node
