"""The language of expressions: a scalar of the reduction layer's output, written as a formula.

    parse("x[3] - x[5]").root

`x` is one observation's output without the batch, (C, *D). The grammar, in full:

    expression = sum [("==" | "!=" | "<" | "<=" | ">" | ">=") sum]
    sum        = product {("+" | "-") product}
    product    = unary {("*" | "/") unary}
    unary      = {"+" | "-"} postfix
    postfix    = value {"[" item {"," item} "]"}
    value      = number | "x" | function "(" expression ["," integer] ")" | "(" expression ")"
    item       = integer | [integer] ":" [integer] [":" [integer]]
    integer    = ["+" | "-"] digits

A text becomes a tree of frozen nodes or an `InvalidExpression`; nothing of it is ever run. Needs
the standard library alone, so that the front end refuses at the door what the engine could not
compute. `camserve.engine.expressions` gives a tree its value.
"""

from camserve.expressions.functions import CONSTANT, FUNCTIONS, Works
from camserve.expressions.parser import MAX_AXES, MAX_LENGTH, MAX_NESTING, MAX_NODES, parse
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
    walk,
)

__all__ = [
    "CONSTANT",
    "FUNCTIONS",
    "MAX_AXES",
    "MAX_LENGTH",
    "MAX_NESTING",
    "MAX_NODES",
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
    "Works",
    "parse",
    "walk",
]
