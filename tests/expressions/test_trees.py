"""What a text of the language is read as: against Python's own parser, and column by column."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given

from camserve.expressions import (
    Binary,
    Call,
    Expression,
    Index,
    Number,
    Position,
    Slice,
    Variable,
    parse,
    walk,
)
from tests.expressions.grammar import generated, python_tree, tree

TEXTS = [
    "x",
    "x[3] - x[5]",
    "sum(x[1] * (argmax(x) == 1))",
    "log(softmax(x)[2])",
    "mean(x[0, 10:20])",
    "-norm(x)",
    "x[-1, :, 2:, :4, 1:9:2, ::3, -3:-1]",
    "1 - 2 - x",
    "1 / 2 / x * 3",
    "1 + 2 * x + 3",
    "-x[0] * -2",
    "-x[0][1]",
    "--+-x",
    "(x - 1)[0] * (2)",
    "x + 1 < 2 * 3 + sum(x)",
    "x * ((1 < x) < 2)",
    "max(x, 0)[1] + softmax(x, -1)[0]",
    " x\n\t+ .5e-1 ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_tree_is_the_one_that_python_reads(text: str) -> None:
    root = parse(f"x + sum({text})").root  # a mask alone would have no gradient
    assert isinstance(root, Binary)
    assert isinstance(root.right, Call)
    assert tree(root.right.argument) == python_tree(text)


@given(text=generated)
def test_random_trees_are_those_that_python_reads(text: str) -> None:
    expression = parse(f"x + {text}")
    assert tree(expression.root) == python_tree(f"x + {text}")
    assert expression.nodes == sum(1 for _ in walk(expression.root))


@given(text=generated)
def test_the_columns_of_every_node_hold_its_own_text(text: str) -> None:
    text = f"x * ({text})"
    for node in walk(parse(text).root):
        assert node.start <= node.column <= node.end
        assert python_tree(text[node.start - 1 : node.end]) == tree(node)
        stands_for = text[node.column - 1 :]
        match node:
            case Index():
                assert stands_for.startswith("[")
                for item in node.items:
                    own = python_tree(f"x[{text[item.start - 1 : item.end]}]")
                    assert own == tree(dataclasses.replace(node, operand=X, items=(item,)))
            case Call():
                assert stands_for.startswith(node.function)
            case Variable():
                assert stands_for.startswith("x")
            case Number():
                assert stands_for[0] in ".0123456789"
            case _:
                assert stands_for.startswith(node.operator)


X = Variable(1, 1, 1)


def test_a_tree_in_full() -> None:
    index = Index(2, 9, 3, Variable(2, 2, 2), (Position(4, 4, 4, 0), Slice(7, 8, 7, 1, None, 1)))
    left = Binary(1, 16, 11, "*", index, Number(13, 15, 13, 2.5))
    right = Call(20, 29, 20, "sum", Variable(24, 24, 24), Position(27, 28, 27, -1))
    text = "(x[0, 1:] * 2.5) - sum(x, -1)"
    assert parse(text) == Expression(text, Binary(1, 29, 18, "-", left, right), 7)


@given(text=generated, other=generated)
def test_the_same_text_gives_an_equal_tree(text: str, other: str) -> None:
    a, b, c = parse(f"x+{text}"), parse(f"x+{text}"), parse(f"x-{other}")
    assert (a, hash(a)) == (b, hash(b))
    assert a != c


def test_trees_are_frozen() -> None:
    expression = parse("x[0]")
    with pytest.raises(dataclasses.FrozenInstanceError):
        expression.text = "x[1]"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        expression.root.start = 3  # type: ignore[misc]
    assert isinstance(expression, Expression)
    assert expression.text == "x[0]"
