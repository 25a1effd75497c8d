"""docs/expressions.md: every function and limit is in it, and all that it shows is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from camserve.engine.expressions import evaluate
from camserve.errors import InvalidExpression
from camserve.expressions import FUNCTIONS, MAX_LENGTH, MAX_NESTING, MAX_NODES, Works, parse

PAGE = (Path(__file__).parent.parent.parent / "docs" / "expressions.md").read_text()
EXAMPLES = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for line in block.split("\n")
    if line
]
OUTPUTS = [torch.rand(1000, dtype=torch.float64) + 0.1, torch.rand(21, 128, 128) + 0.1]


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_has_a_value(text: str) -> None:
    x = OUTPUTS[text.count("12") > 0].clone().requires_grad_()
    value = evaluate(parse(text), x)
    (slope,) = torch.autograd.grad(value, x)
    assert bool(slope.isfinite().all())


def test_the_tables_name_every_function_and_the_limits() -> None:
    table = PAGE[PAGE.index("## Functions") : PAGE.index("## Examples")]
    rows = [line.split("|")[1] for line in table.split("\n") if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)\(x\)`", " ".join(rows))) == sorted(FUNCTIONS)
    rule = next(line for line in table.split("\n") if line.startswith("`sum`"))
    with_axis = {name for name, works in FUNCTIONS.items() if works is not Works.ON_EACH}
    assert set(re.findall(r"`(\w+)`", rule)) == with_axis
    assert len(with_axis) == 8  # "each of these eight"
    for limit in (MAX_LENGTH, MAX_NODES, MAX_NESTING):
        assert f" {limit} " in PAGE


def test_the_error_that_is_shown_is_the_one_that_is_raised() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    document = json.loads(shown)
    with pytest.raises(InvalidExpression) as caught:
        parse(document["expression"])
    error = caught.value
    assert document == {"code": error.code, "detail": str(error)} | error.extensions
