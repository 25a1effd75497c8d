"""The value of an expression: its tree, computed with torch on one observation's output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType

import torch
from torch import Tensor

from camserve.errors import InvalidExpression
from camserve.expressions import (
    CONSTANT,
    FUNCTIONS,
    Binary,
    Call,
    Comparison,
    Expression,
    Index,
    Node,
    Number,
    Slice,
    Unary,
    Variable,
    Works,
)

__all__ = ["MAX_ELEMENTS", "MAX_FULL_STEPS", "evaluate"]

MAX_ELEMENTS = 1_000_000
"""Numbers of one step's result; of a larger output, twice the output's."""

MAX_FULL_STEPS = 10
"""Numbers of all steps together, in multiples of that: autograd keeps most of them."""

_OPERATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "+": torch.add,
        "-": torch.sub,
        "*": torch.mul,
        "/": torch.div,
        "==": torch.eq,
        "!=": torch.ne,
        "<": torch.lt,
        "<=": torch.le,
        ">": torch.gt,
        ">=": torch.ge,
    }
)


def _softmax(x: Tensor, dim: int) -> Tensor:
    # torch.softmax splits even ten numbers among threads: milliseconds on a busy machine
    return (x - x.logsumexp(dim, keepdim=True)).exp()


# amax and amin share the gradient among ties with an axis and without; vector_norm has slope 0 at 0
_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "sum": torch.sum,
        "mean": torch.mean,
        "max": torch.amax,
        "min": torch.amin,
        "norm": torch.linalg.vector_norm,
        "softmax": _softmax,
        "logsumexp": torch.logsumexp,
        "argmax": torch.argmax,
        "abs": torch.abs,
        "exp": torch.exp,
        "log": torch.log,
        "sqrt": torch.sqrt,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
    }
)

_CAUSES = {
    "/": "the divisor is 0 or too small somewhere: add a small number to it, such as 1e-12",
    "log": "log takes numbers above 0: add a small one, such as 1e-12; the log of softmax(x) "
    "is x - logsumexp(x)",
    "sqrt": "sqrt takes numbers above 0",
    "exp": "exp takes numbers up to 709",
}


def evaluate(expression: Expression, x: Tensor) -> Tensor:
    """The expression's value for `x`, differentiable in it: float64, without dimensions.

    x: (C, *D), one observation's output without its batch. Computed in float64 whatever the dtype
    of x, so that a softmax near 1 keeps its slope; the gradient comes back in the dtype of x.
    Raises InvalidExpression, at the column at fault, for an index or axis out of range, shapes
    that do not broadcast, a result that is not one number, a step that is not finite or has no
    finite slope, and more numbers than MAX_ELEMENTS and MAX_FULL_STEPS allow.
    """
    evaluation = _Evaluation(expression.text, x.double())
    column = expression.root.column
    if not x.numel():
        raise evaluation.fault(column, f"the output x is empty: its shape is {tuple(x.shape)}")
    result = evaluation.value(expression.root)
    if result.ndim:
        raise evaluation.fault(
            column,
            f"the result has the shape {tuple(result.shape)} and has to be one number: put "
            "it into sum or mean, or index it, such as x[0]",
        )
    if not _all_finite(result):
        raise evaluation.fault(
            column,
            f"the result is {result.item():g}, because the output x itself holds numbers that are "
            "not finite: index those that are",
        )
    return result


class _Evaluation:
    """One walk over a tree."""

    def __init__(self, text: str, x: Tensor) -> None:
        self._text = text
        self._x = x
        self._limit = max(MAX_ELEMENTS, 2 * x.numel())
        self._left = MAX_FULL_STEPS * self._limit

    def fault(self, column: int, detail: str) -> InvalidExpression:
        return InvalidExpression(detail, self._text, column)

    def value(self, node: Node) -> Tensor:
        """By recursion, two frames for each node at most: there are MAX_NODES."""
        match node:
            case Number():
                value = torch.tensor(node.value, dtype=self._x.dtype, device=self._x.device)
            case Variable():
                value = self._x
            case Index():
                value = self._index(node)
            case Unary():
                value = self.value(node.operand)
                if node.operator == "-":
                    self._spend(node.column, value.shape)
                    value = -value
            case Binary():
                left, right = self.value(node.left), self.value(node.right)
                value = self._pair(node, left, right)
                self._check_finite(node.column, node.operator, value, left, right)
            case Comparison():
                with torch.no_grad():
                    left, right = self.value(node.left), self.value(node.right)
                    value = self._pair(node, left, right).double()
            case Call():
                with torch.set_grad_enabled(
                    torch.is_grad_enabled() and node.function not in CONSTANT
                ):
                    argument = self.value(node.argument)
                    value = self._call(node, argument)
                self._check_finite(node.column, node.function, value, argument)
        return value

    def _index(self, node: Index) -> Tensor:
        operand = self.value(node.operand)
        shape = tuple(operand.shape)
        places: list[int | slice] = []
        for axis, item in enumerate(node.items):
            if axis == len(shape):
                raise self.fault(item.column, f"one index too many: the shape here is {shape}")
            size = shape[axis]
            where: int | slice
            if isinstance(item, Slice):
                where = slice(item.first, item.stop, item.step)
                outside = "" if range(size)[where] else "the slice takes nothing"
            else:
                where = item.value
                outside = "" if -size <= where < size else f"index {where} is out of range"
            if outside:
                raise self.fault(
                    item.column,
                    f"{outside}: axis {axis} of the shape {shape} has the indices 0 to {size - 1}, "
                    f"or {-size} to -1 from its end",
                )
            places.append(where)
        return operand[tuple(places)]

    def _pair(self, node: Binary | Comparison, left: Tensor, right: Tensor) -> Tensor:
        pairs = list(zip_longest(reversed(left.shape), reversed(right.shape), fillvalue=1))
        if any(a != b and 1 not in (a, b) for a, b in pairs):
            raise self.fault(
                node.column,
                f"{node.operator} cannot join the shapes {tuple(left.shape)} and "
                f"{tuple(right.shape)}: from the last axis on, sizes have to be equal or 1",
            )
        shape = tuple(max(pair) for pair in reversed(pairs))
        self._spend(node.column, shape)
        return _OPERATORS[node.operator](left, right)

    def _call(self, node: Call, argument: Tensor) -> Tensor:
        apply, works = _FUNCTIONS[node.function], FUNCTIONS[node.function]
        if works is Works.ON_EACH:
            self._spend(node.column, argument.shape)
            if node.function == "sqrt":
                self._check_slope(node.column, argument)
            return apply(argument)
        if works is Works.OVER_ALL and node.axis is None:
            return apply(argument)
        axis = self._axis(node, argument)
        self._spend(node.column, argument.shape)
        return apply(argument, dim=axis).double()

    def _axis(self, node: Call, argument: Tensor) -> int:
        axis, column = (node.axis.value, node.axis.column) if node.axis else (0, node.column)
        if -argument.ndim <= axis < argument.ndim:
            return axis
        known = f"the axes 0 to {argument.ndim - 1}" if argument.ndim else "no axes"
        raise self.fault(
            column,
            f"{node.function} along axis {axis}: the shape {tuple(argument.shape)} has {known}",
        )

    def _check_slope(self, column: int, argument: Tensor) -> None:
        if torch.is_grad_enabled() and argument.requires_grad and not bool(argument.all()):
            raise self.fault(
                column,
                "sqrt has no finite slope at 0: add 1e-12, or write norm for a root of squares",
            )

    def _spend(self, column: int, shape: Sequence[int]) -> None:
        """Called before memory is taken: shapes that broadcast may multiply."""
        elements = math.prod(shape)
        self._left -= elements
        if elements > self._limit or self._left < 0:
            raise self.fault(
                column,
                f"too many numbers: this step gives the shape {tuple(shape)}; one step may give "
                f"{self._limit}, all together {MAX_FULL_STEPS} times that: index or sum first",
            )

    def _check_finite(self, column: int, name: str, value: Tensor, *operands: Tensor) -> None:
        """Refuse the step that leaves the finite numbers: its slope is none, whatever follows.

        Not one that is given such numbers: a model may rule classes out with -inf.
        """
        if _all_finite(value) or not all(map(_all_finite, operands)):
            return
        found = float(value.detach()[~value.isfinite()][0])
        cause = _CAUSES.get(name, "the numbers are too large")
        raise self.fault(column, f"{name} gives {found:g} here: {cause}")


def _all_finite(x: Tensor) -> bool:
    return bool(x.detach().isfinite().all())
