"""What is not of the language: which character is at fault, why, and what to write instead."""

from __future__ import annotations

import json

import pytest

from camserve.errors import ErrorCode, InvalidExpression
from camserve.expressions import FUNCTIONS, Works, parse

REFUSALS = [
    # nothing, or not to the end
    ("", 1, "the expression is empty: write for example x[0]"),
    (" \t\n", 1, "the expression is empty"),
    ("x - ", 5, "a value is missing at the end"),
    ("sum(", 5, "a value is missing at the end"),
    ("x *", 4, "a value is missing at the end"),
    ("sum(x", 4, "'(' is never closed"),
    ("x[:, 3", 2, "'[' is never closed"),
    ("((x)", 1, "'(' is never closed"),
    # the wrong thing at a place
    ("* x", 1, "a value is missing before '*'"),
    ("x + * 2", 5, "a value is missing before '*'"),
    ("sum()", 5, "a value is missing before ')'"),
    ("[x]", 1, "a value is missing before '['"),
    ("x]", 2, "']' was never opened"),
    ("x[0])", 5, "')' was never opened"),
    ("(x]", 3, "']' stands where ')' has to close the '(' of column 1"),
    ("x[0)", 4, "')' stands where ']' has to close the '[' of column 2"),
    ("2x", 2, "an operator is missing before 'x': * for a product"),
    ("x 3", 3, "an operator is missing before '3'"),
    ("2(x)", 2, "an operator is missing before '('"),
    ("x x", 3, "an operator is missing before 'x'"),
    ("1.2.3 * x", 4, "an operator is missing before '.3'"),
    ("1e * x", 2, "an operator is missing before 'e'"),
    ("0x1F * x", 2, "an operator is missing before 'x1F'"),
    ("1_000 * x", 2, "an operator is missing before '_000'"),
    ("x, 0", 2, "a comma stands in an index, x[0, 1], or before an axis"),
    ("(x, 0)", 3, "a comma stands in an index"),
    ("x : 2", 3, "a colon stands in an index alone"),
    # names
    ("y[0]", 1, "there is no name 'y'; there are x, sum, mean, max"),
    ("X[0]", 1, "there is no name 'X'; did you mean 'x'?"),
    ("x[0] + sun(x)", 8, "there is no name 'sun'; did you mean 'sum'?"),
    ("x[0] + Softmax(x)[1]", 8, "did you mean 'softmax'?"),
    ("sum x", 1, "sum is a function: write sum(x)"),
    ("x * max", 5, "max is a function: write max(x)"),
    ("x(3)", 2, "an index stands in square brackets, and from 0: x[0]"),
    ("sum(x > 0 and x < 1)", 11, "there is no 'and': masks are combined by a product"),
    ("(x > 0 or x < 1) * x", 8, "there is no 'or': one of two masks holds where their sum"),
    # functions and axes
    ("exp(x, 0)", 6, "exp takes one argument"),
    ("sum(x, axis=0)", 8, "the second argument of sum is an axis, such as sum(x, 0)"),
    ("sum(x, 0.5)", 8, "the second argument of sum is an axis"),
    ("sum(x, -)", 9, "the second argument of sum is an axis"),
    ("sum(x, )", 8, "the second argument of sum is an axis"),
    ("max(x[0], x[1])", 11, "the max of two numbers a and b is b + relu(a - b)"),
    ("min(x[0], x[1])", 11, "the min of two numbers a and b is a - relu(a - b)"),
    ("sum(x, 0, 1)", 9, "sum takes an argument and one axis"),
    ("sum(x, 0 + 1)", 10, "an index or an axis is written out, not calculated"),
    # indices
    ("x[]", 3, "an index is a whole number, such as 0 or -1, or a slice, such as 1:3"),
    ("x[0,]", 5, "an index is a whole number"),
    ("x[1.0]", 3, "an index is a whole number"),
    ("x[1e2]", 3, "an index is a whole number"),
    ("x[(1)]", 3, "an index is a whole number"),
    ("x[--1]", 4, "an index is a whole number"),
    ("x[x > 0]", 3, "a mask is a factor instead: sum(x * (x > 0))"),
    ("x[argmax(x)]", 3, "an index is a whole number"),
    ("x[2 + 1]", 5, "an index or an axis is written out, not calculated"),
    ("x[:2 * 2]", 6, "an index or an axis is written out, not calculated"),
    ("x[0 == 0]", 5, "an index or an axis is written out, not calculated"),
    ("x[1:2:3:4]", 8, "a colon stands in an index alone"),
    ("x[5:5]", 3, "no index is from 5 up to, but not including, 5"),
    ("x[0, :0]", 6, "no index is from 0 up to, but not including, 0"),
    ("x[-1:-3]", 3, "no index is from -1 up to, but not including, -3"),
    ("x[1:9:0]", 7, "a step is at least 1"),
    ("x[::-1]", 5, "a step is at least 1"),
    ("x[1000000001]", 3, "no axis is as long as '1000000001'"),
    ("x[0,0,0,0,0,0,0,0,0]", 18, "an index takes at most 8 axes"),
    # numbers
    ("x * 1e999", 5, "'1e999' is too large: numbers end at 1.79e308"),
    # comparisons
    ("1 < x < 2", 7, "comparisons are not chained: write (0 < x) * (x < 1) for 0 < x < 1"),
    ("x * (x == 1 == 1)", 13, "comparisons are not chained"),
    # no gradient
    ("3", 1, "the expression does not mention x, so that its gradient is 0"),
    ("1 + 2 * 3", 3, "the expression does not mention x"),
    ("sum(x > 0)", 5, "x stands in comparisons and argmax alone, which have no gradient"),
    ("sum((x > 0) * (x < 1))", 6, "x stands in comparisons and argmax alone"),
    ("2 * argmax(x)", 12, "x stands in comparisons and argmax alone"),
    ("sum(3 * (sum(x * 2, 0) == 1))", 14, "x stands in comparisons and argmax alone"),
]


@pytest.mark.parametrize(("text", "column", "detail"), REFUSALS, ids=lambda value: repr(value)[:40])
def test_the_fault_and_its_column(text: str, column: int, detail: str) -> None:
    with pytest.raises(InvalidExpression) as caught:
        parse(text)
    assert str(caught.value).startswith(f"column {column}: ")
    assert detail in str(caught.value)
    assert caught.value.extensions["column"] == column
    assert caught.value.extensions["expression"] == text
    assert caught.value.error_code is ErrorCode.INVALID_EXPRESSION


MISTAKES = [
    ("**", "there are no powers: write x[0] * x[0], or exp(3 * log(x[0]))"),
    ("^", "there are no powers"),
    ("//", "write / to divide"),
    ("=", "write == to compare"),
    ("~=", "write != for unequal"),
    (".*", "write it without the dot"),
    ("./", "write it without the dot"),
    ("...", "write a : for each axis"),
    (".", "nothing has attributes"),
    ("&", "masks are combined by a product"),
    ("&&", "masks are combined by a product"),
    ("|", "one of two masks holds where their sum is above 0"),
    ("||", "one of two masks holds"),
    ("!", "the opposite of a mask is 1 - mask"),
    ("~", "the opposite of a mask is 1 - mask"),
    ("'", "the language has no strings"),
    ('"', "the language has no strings"),
    ("{", "write ( and )"),
    ("%", "ASCII letters, digits and operators"),
    ("@", "ASCII letters, digits and operators"),
    ("\\", "ASCII letters, digits and operators"),
    ("\x00", "'\\x00' is not part of the language"),
    ("\x0c", "'\\x0c' is not part of the language"),
    ("\u2212", "(U+2212 MINUS SIGN) is not part of the language: write - instead"),
    ("\u0445", "(U+0445 CYRILLIC SMALL LETTER HA) is not part of the language"),
    ("\u0665", "(U+0665 ARABIC-INDIC DIGIT FIVE) is not part of the language"),
    ("\u00d7", "write * instead"),
    ("\u2264", "write <= instead"),
    ("\u00a0", "(U+00A0 NO-BREAK SPACE) is not part of the language: write a plain space"),
    ("\u200b", "(U+200B ZERO WIDTH SPACE)"),
    ("\ud800", "'\\ud800' (U+D800 without a name)"),
    ("\U0001f600", "(U+1F600 GRINNING FACE)"),
]


@pytest.mark.parametrize(("found", "remedy"), MISTAKES, ids=lambda value: repr(value)[:30])
def test_characters_of_other_languages(found: str, remedy: str) -> None:
    text = f"x[0]  {found} 2"
    with pytest.raises(InvalidExpression) as caught:
        parse(text)
    assert caught.value.extensions["column"] == 7
    assert f"column 7: {found!r}" in str(caught.value)
    assert remedy in str(caught.value)
    json.dumps(caught.value.extensions).encode()
    str(caught.value).encode()
    caught.value.extensions["expression"].encode()


def test_the_leftmost_fault_is_the_one_reported() -> None:
    for text, column in [("y + 'a'", 1), ("sum(x, y) %", 8), ("x[0 1 é", 5), ("1e999 é", 1)]:
        with pytest.raises(InvalidExpression) as caught:
            parse(text)
        assert caught.value.extensions["column"] == column


def test_near_names_are_listed_for_machines() -> None:
    with pytest.raises(InvalidExpression) as caught:
        parse("argmx(x) * x[0]")
    assert caught.value.extensions["near"][0] == "argmax"
    assert set(caught.value.extensions["near"]) <= set(FUNCTIONS)
    with pytest.raises(InvalidExpression) as caught:
        parse("q")
    assert caught.value.extensions["near"] == []


@pytest.mark.parametrize(("function", "works"), FUNCTIONS.items())
def test_which_functions_take_an_axis(function: str, works: Works) -> None:
    text = f"x[0] + sum({function}(x, 0))"
    if works is Works.ON_EACH:
        with pytest.raises(InvalidExpression, match=f"{function} takes one argument"):
            parse(text)
    else:
        assert parse(text).text == text


def test_expressions_with_a_gradient_beside_a_mask_are_taken() -> None:
    for text in ("x[0] * (x[1] > 0)", "argmax(x) + x[0]", "sum((argmax(x) == 1) * x[1])"):
        assert parse(text).text == text
