"""Random strings: a finite scalar or a typed refusal, within 10 ms, and nothing else ever.

1,000 of them, and 5,000 by `make soak`.
"""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from camserve.engine.expressions import evaluate
from camserve.errors import InvalidExpression
from camserve.expressions import Expression, parse
from tests.expressions.grammar import mutated, scalars, soup
from tests.expressions.test_bounds import BUDGET_MS, thread_time_ms

generator = torch.Generator().manual_seed(5)
OUTPUTS = [torch.randn(4, 3, 5, generator=generator), torch.randn(7, generator=generator)]

every_character = st.text(st.characters(exclude_categories=()), max_size=60)
own_characters = st.text("x[]()+-*/<>=!,:. 0123456789eE\n", max_size=80)
examples = settings(max_examples=250)


def check(text: str) -> Expression | None:
    """The expression, once all that is promised of any string held for this one."""

    def read_and_compute() -> None:
        with suppress(InvalidExpression):
            evaluate(parse(text), x)

    for x in (output.clone().requires_grad_() for output in OUTPUTS):
        try:
            expression = parse(text)
        except InvalidExpression as error:
            check_error(error, text)
            expression = None
        if expression is not None:
            try:
                check_value(evaluate(expression, x), x)
            except InvalidExpression as error:
                check_error(error, text)
        assert thread_time_ms(read_and_compute) < BUDGET_MS
    return expression


def check_error(error: InvalidExpression, text: str) -> None:
    assert 1 <= error.extensions["column"] <= len(text) + 1
    assert str(error).startswith(f"column {error.extensions['column']}: ")
    json.dumps(error.extensions, ensure_ascii=False).encode()
    str(error).encode()


def check_value(value: Tensor, x: Tensor) -> None:
    assert (value.dtype, value.shape) == (torch.float64, ())
    assert bool(value.isfinite())
    (gradient,) = torch.autograd.grad(value, x)
    assert (gradient.dtype, gradient.shape) == (x.dtype, x.shape)


@examples
@given(text=every_character | own_characters)
def test_any_text(text: str) -> None:
    check(text)


@examples
@given(text=soup)
def test_tokens_in_any_order(text: str) -> None:
    check(text)


@examples
@given(text=mutated())
def test_valid_text_with_mistakes(text: str) -> None:
    check(text)


@examples
@given(text=scalars)
def test_valid_text(text: str) -> None:
    assert check(text) is not None


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "texts", [every_character | own_characters, soup, mutated(), scalars], ids=range(4)
)
def test_five_thousand(texts: st.SearchStrategy[str]) -> None:
    @settings(max_examples=1250, derandomize=False)
    @given(text=texts)
    def run(text: str) -> None:
        check(text)

    run()
