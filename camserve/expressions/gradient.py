"""Whether an expression has a gradient at all: seen from its text, before any model runs."""

from __future__ import annotations

from camserve.errors import InvalidExpression
from camserve.expressions.functions import CONSTANT
from camserve.expressions.tree import Call, Comparison, Node, Variable, operands, walk

__all__ = ["check_gradient"]


def check_gradient(root: Node, text: str) -> None:
    """Raises InvalidExpression unless `x` occurs outside of comparisons and `argmax`."""
    if _reaches(root):
        return
    for node in walk(root):
        if isinstance(node, Variable):
            raise InvalidExpression(
                "x stands in comparisons and argmax alone, which have no gradient: multiply the "
                "mask by x, such as sum(x * (x > 0))",
                text,
                node.column,
            )
    raise InvalidExpression(
        "the expression does not mention x, so that its gradient is 0: write for example x[0]",
        text,
        root.column,
    )


def _reaches(root: Node) -> bool:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Variable):
            return True
        constant = isinstance(node, Call) and node.function in CONSTANT
        if not constant and not isinstance(node, Comparison):
            waiting += operands(node)
    return False
