"""Values and gradients of expressions against formulas by another route, and every refusal."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from camserve.engine import expressions
from camserve.engine.expressions import MAX_ELEMENTS, evaluate
from camserve.errors import ErrorCode, InvalidExpression
from camserve.expressions import FUNCTIONS, parse

generator = torch.Generator().manual_seed(11)
DENSE = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)
CLASSES = torch.randn(7, generator=generator, dtype=torch.float64)


def softmax(x: Tensor) -> Tensor:
    return x.exp() / x.exp().sum(0)


def wins(x: Tensor, index: int) -> Tensor:
    """1 where class `index` is above every other one."""
    others = torch.cat([x[:index], x[index + 1 :]])
    return torch.stack([x[index] > other for other in others]).all(0).double()


Formula = tuple[str, Callable[[Tensor], Tensor]]

OF_CLASSES: list[Formula] = [
    ("x[3]", lambda x: x[3]),
    ("x[-1]", lambda x: x[6]),
    ("x[3] - x[5]", lambda x: x @ torch.tensor([0, 0, 0, 1, 0, -1, 0], dtype=x.dtype)),
    ("-x[1]", lambda x: x[1] * -1),
    ("+x[1]", lambda x: x[1]),
    ("2 * x[0] + x[1] / 4 - 1", lambda x: x[0] + x[0] + 0.25 * x[1] - 1),
    ("1 - 2 - x[0]", lambda x: -1 - x[0]),
    ("1 / x[0] / x[1]", lambda x: (x[0] * x[1]) ** -1),
    ("x[0] * x[1] * x[0]", lambda x: x[0] ** 2 * x[1]),
    ("sum(x[1:6:2])", lambda x: x[1] + x[3] + x[5]),
    ("mean(x[-2:])", lambda x: (x[5] + x[6]) / 2),
    ("sum(x[:100])", lambda x: torch.ones_like(x) @ x),
    ("x[2:5][1]", lambda x: x[3]),
    ("(x - x[0])[1]", lambda x: x[1] - x[0]),
    ("log(softmax(x)[2])", lambda x: x[2] - x.exp().sum().log()),
    ("x[2] - logsumexp(x)", lambda x: softmax(x)[2].log()),
    ("-sum(softmax(x) * log(softmax(x)))", lambda x: -(softmax(x) * softmax(x).log()).sum()),
    ("norm(x)", lambda x: (x @ x) ** 0.5),
    ("-norm(x) / sum(abs(x))", lambda x: -((x @ x) ** 0.5) / (x * x.sign()).sum()),
    ("max(x) - min(x)", lambda x: x.sort().values[-1] - x.sort().values[0]),
    ("sum(relu(x))", lambda x: (x * (x > 0)).sum()),
    ("sum(sigmoid(x))", lambda x: (1 / (1 + (-x).exp())).sum()),
    ("mean(exp(x / 2))", lambda x: (x.exp() ** 0.5).sum() / 7),
    ("sum(sqrt(abs(x)))", lambda x: (x * x).pow(0.25).sum()),
    ("log(x[0] * x[0])", lambda x: 2 * x[0].abs().log()),
    ("sum(x * (x > 0) * (x <= 1))", lambda x: sum(v for v in x if 0 < v <= 1)),
    ("sum(x * (x < 0)) + sum(x * (x >= 0))", lambda x: x.sum()),
    ("sum(x * (argmax(x) != 2))", lambda x: x.sum() * float(x.argmax() != 2)),
    ("sum(x * (x == max(x)))", lambda x: x.max()),
    ("x[1] + argmax(x)", lambda x: x[1] + int(x.argmax())),
    ("x[0] + (1 > 2) + (2 > 1)", lambda x: x[0] + 1),
    ("x[1] + relu(x[0] - x[1])", lambda x: torch.maximum(x[0], x[1])),
    ("x[0] * (1 == sum(x == x[0]))", lambda x: x[0]),
]

OF_DENSE: list[Formula] = [
    ("sum(x[1] * (argmax(x) == 1))", lambda x: (x[1] * wins(x, 1)).sum()),
    ("mean(x[0, 1:3])", lambda x: x[0, [1, 2]].sum() / 10),
    ("mean(x[:, 2, -1])", lambda x: sum(x[c, 2, 4] for c in range(4)) / 4),
    ("x[3, 2, 4]", lambda x: x.flatten()[-1]),
    ("sum(x)", lambda x: x.flatten() @ torch.ones(60, dtype=x.dtype)),
    ("mean(x)", lambda x: x.sum() / 60),
    ("norm(x)", lambda x: (x * x).sum() ** 0.5),
    ("max(x)", lambda x: x.flatten().sort().values[-1]),
    ("sum(max(x, 0))", lambda x: x.sort(0).values[-1].sum()),
    ("sum(min(x, -1))", lambda x: x.sort(2).values[..., 0].sum()),
    ("sum(mean(x, 1)[2])", lambda x: x[2].sum() / 3),
    ("sum(x, 0)[1, 1]", lambda x: x[0, 1, 1] + x[1, 1, 1] + x[2, 1, 1] + x[3, 1, 1]),
    ("sum(norm(x, 0))", lambda x: (x * x).sum(0).sqrt().sum()),
    ("sum(softmax(x)[2])", lambda x: softmax(x)[2].sum()),
    ("softmax(x, -1)[1, 2, 3]", lambda x: softmax(x[1, 2])[3]),
    ("sum(logsumexp(x, 1))", lambda x: x.exp().sum(1).log().sum()),
    ("mean(logsumexp(x))", lambda x: x.exp().sum(0).log().sum() / 15),
    ("sum(x * (argmax(x, 2) == 0)[0, 0])", lambda x: x.sum() * float(x[0, 0].argmax() == 0)),
    ("sum(x * x[0])", lambda x: (x[0] * x.sum(0)).sum()),
    ("sum(x[:, :, 0:1] * x[0:1])", lambda x: (x[:, :, 0].sum(0) * x[0].sum(1)).sum()),
    ("sum(x[1] * (x[2] > mean(x[2])))", lambda x: x[1][x[2] > x[2].sum() / 15].sum()),
]

CASES = [(text, CLASSES, formula) for text, formula in OF_CLASSES] + [
    (text, DENSE, formula) for text, formula in OF_DENSE
]


@pytest.mark.parametrize(("text", "output", "formula"), CASES, ids=[case[0] for case in CASES])
def test_value_and_gradient_are_those_of_the_formula(
    text: str, output: Tensor, formula: Callable[[Tensor], Tensor]
) -> None:
    x, y = (output.clone().requires_grad_() for _ in range(2))
    value, truth = evaluate(parse(text), x), formula(y)
    assert (value.dtype, value.shape) == (torch.float64, ())
    assert float(value.detach()) == pytest.approx(float(truth.detach()), rel=1e-12)
    (slope,), (true_slope,) = torch.autograd.grad(value, x), torch.autograd.grad(truth, y)
    assert float((slope - true_slope).abs().max()) <= 1e-12 * float(true_slope.abs().max())


def test_every_function_and_operator_has_a_formula() -> None:
    texts = " ".join(text for text, _, _ in CASES)
    assert [name for name in FUNCTIONS if f"{name}(" not in texts] == []
    assert [sign for sign in expressions._OPERATORS if f" {sign} " not in texts] == []
    assert set(expressions._FUNCTIONS) == set(FUNCTIONS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_are_computed_in_float64(dtype: torch.dtype) -> None:
    x = CLASSES.to(dtype).requires_grad_()
    value = evaluate(parse("x[0] * x[1] / 3"), x)
    a, b = x[0].item(), x[1].item()
    assert value.dtype == torch.float64
    assert value.item() == a * b / 3  # to the last digit
    (slope,) = torch.autograd.grad(value, x)
    assert slope.dtype == dtype
    assert slope[0].item() == torch.tensor(b / 3, dtype=dtype).item()


def test_a_softmax_near_1_keeps_its_slope() -> None:
    x = torch.tensor([30.0, 0.0, 1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(evaluate(parse("softmax(x)[0]"), x), x)
    rest = math.exp(-30) + math.exp(-29)
    assert slope[0].item() == pytest.approx(rest / (1 + rest) ** 2, rel=1e-3)
    with_float32 = x.softmax(0)[0]
    (lost,) = torch.autograd.grad(with_float32, x)
    assert lost[0].item() == 0  # or this test proves nothing


def test_slopes_at_kinks_are_those_of_torch() -> None:
    zeros = torch.zeros(3, 2, requires_grad=True)
    for text in ("norm(x)", "sum(norm(x, 0))", "sum(abs(x))", "sum(relu(x))"):
        (slope,) = torch.autograd.grad(evaluate(parse(text), zeros), zeros)
        assert slope.tolist() == [[0, 0]] * 3, text
    for text in ("max(x)", "max(x, 0)[0]", "3 * max(x) - 2 * min(x)", "min(x, -2)[0]"):
        x = torch.tensor([[2.0], [2.0], [2.0], [2.0]], requires_grad=True)
        (slope,) = torch.autograd.grad(evaluate(parse(text), x), x)
        assert slope.flatten().tolist() == [0.25] * 4, text  # ties share


@pytest.mark.parametrize(
    ("operator", "kept"),
    [("<", [1]), ("<=", [1, 2]), ("==", [2]), ("!=", [1, 4]), (">=", [2, 4]), (">", [4])],
)
def test_comparisons_at_equality(operator: str, kept: list[int]) -> None:
    x = torch.tensor([1.0, 2.0, 4.0])
    assert evaluate(parse(f"sum(x * (x {operator} 2))"), x).item() == sum(kept)


def test_masks_and_argmax_are_constants_for_the_gradient() -> None:
    x = CLASSES.clone().requires_grad_()
    for text, slope in (("x[0] * (x[1] < 99)", 1), ("x[0] * (argmax(x) < 99) * 2", 2)):
        (found,) = torch.autograd.grad(evaluate(parse(text), x), x)
        assert found.tolist() == [slope, 0, 0, 0, 0, 0, 0]


def test_the_input_and_its_graph_are_left_alone() -> None:
    x = CLASSES.clone().requires_grad_()
    evaluate(parse("sum(relu(-x) * x)"), x).backward()
    assert torch.equal(x.detach(), CLASSES)
    with torch.no_grad():
        assert not evaluate(parse("2 * x[0]"), x).requires_grad
    assert evaluate(parse("x[0] * 2"), CLASSES).item() == CLASSES[0].item() * 2
    assert torch.is_grad_enabled()
    with pytest.raises(InvalidExpression):
        evaluate(parse("x[0] * (x[9] > 0)"), x)
    assert torch.is_grad_enabled()


def test_several_cotangents_at_once() -> None:
    """As the scores of an explanation are differentiated."""
    x = torch.randn(2, 5, generator=generator).requires_grad_()
    texts = ("x[0] - max(x)", "log(softmax(x)[1])", "norm(x) * sum(x * (x > 0))")
    values = torch.stack([evaluate(parse(text), x[1]) for text in texts])
    cotangents = torch.eye(3, dtype=values.dtype)
    (slopes,) = torch.autograd.grad(values, x, cotangents, retain_graph=True, is_grads_batched=True)
    for text, slope in zip(texts, slopes, strict=True):
        (alone,) = torch.autograd.grad(evaluate(parse(text), x[1]), x)
        assert torch.allclose(slope, alone, rtol=1e-6)
        assert not slope[0].any()


FAULTS = [
    # the output's shape is (4, 3, 5)
    (
        "x[4, 0, 0]",
        3,
        "index 4 is out of range: axis 0 of the shape (4, 3, 5) has the indices 0 to",
    ),
    ("x[0, -4, 0]", 6, "index -4 is out of range: axis 1 of the shape (4, 3, 5)"),
    ("x[0, 1, 5]", 9, "has the indices 0 to 4, or -5 to -1 from its end"),
    ("x[1][2][9]", 9, "index 9 is out of range: axis 0 of the shape (5,)"),
    ("x[0, 0, 0, 0]", 12, "one index too many: the shape here is (4, 3, 5)"),
    ("sum(x)[0]", 8, "one index too many: the shape here is ()"),
    ("sum(x[4:])", 7, "the slice takes nothing: axis 0 of the shape (4, 3, 5)"),
    ("sum(x[0, -9:-3])", 10, "the slice takes nothing: axis 1 of the shape (4, 3, 5)"),
    ("sum(x[-1:1])", 7, "the slice takes nothing"),
    ("sum(x[0:2] * x)", 12, "* cannot join the shapes (2, 3, 5) and (4, 3, 5)"),
    ("sum(x * (x[0] == x[:, 0]))", 15, "== cannot join the shapes (3, 5) and (4, 5)"),
    ("sum(x, 3)", 8, "sum along axis 3: the shape (4, 3, 5) has the axes 0 to 2"),
    ("softmax(x[0, 0], -2)[0]", 18, "softmax along axis -2: the shape (5,) has the axes 0 to 0"),
    ("softmax(sum(x))", 1, "softmax along axis 0: the shape () has no axes"),
    ("x[0, 0, 0] + argmax(x[0, 0, 0])", 14, "argmax along axis 0: the shape () has no axes"),
    ("x", 1, "the result has the shape (4, 3, 5) and has to be one number: put it into sum or"),
    ("x[3] * 2", 6, "the result has the shape (3, 5)"),
    ("x[0:1, 0, 0]", 2, "the result has the shape (1,)"),
    ("-sum(x, 0)", 1, "the result has the shape (3, 5)"),
    ("sum(log(-norm(x) + x))", 5, "log gives nan here: log takes numbers above 0"),
    ("2 * log(norm(x) * 0)", 5, "log gives -inf here"),
    ("sqrt(-norm(x))", 1, "sqrt gives nan here"),
    ("1 + sqrt(0 * norm(x))", 5, "sqrt has no finite slope at 0: add 1e-12, or write norm"),
    ("exp(1000 + 0 * sum(x))", 1, "exp gives inf here: exp takes numbers up to 709"),
    ("sum(1 / (x - x))", 7, "/ gives inf here: the divisor is 0 or too small"),
    ("sum(x / (x - x) * 0)", 7, "/ gives"),
    ("norm(x) * 1e307 * 100", 17, "* gives inf here: the numbers are too large"),
    ("norm(x * 1e200)", 1, "norm gives inf here: the numbers are too large"),
    # what a later step would hide: the slope behind it is none
    ("exp(log(0 * norm(x)))", 5, "log gives -inf here"),
    ("sigmoid(-1 / (0 * norm(x)))", 12, "/ gives -inf here"),
    ("sum(x * (log(-norm(x)) > 0))", 10, "log gives nan here"),
]


@pytest.mark.parametrize(("text", "column", "detail"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_faults_point_at_the_guilty_column(text: str, column: int, detail: str) -> None:
    expression = parse(text)
    with pytest.raises(InvalidExpression) as caught:
        evaluate(expression, DENSE.clone().requires_grad_())
    assert str(caught.value).startswith(f"column {column}: ")
    assert detail in str(caught.value)
    assert caught.value.extensions == {"expression": text, "column": column, "near": []}
    assert caught.value.error_code is ErrorCode.INVALID_EXPRESSION


def test_a_root_of_0_is_refused_only_where_its_slope_counts() -> None:
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    for text, value in (
        ("x[1] * (sqrt(x)[1] == 2)", 4),
        ("x[1] + argmax(sqrt(x))", 5),
        ("x[1] + sqrt(0)", 4),
        ("sqrt(x[1])", 2),
    ):
        assert evaluate(parse(text), x).item() == value, text
    with pytest.raises(InvalidExpression, match="no finite slope"):
        evaluate(parse("sqrt(x)[1]"), x)  # 0 / 0 is what autograd would make of x[0]


def test_outputs_that_are_not_finite_themselves() -> None:
    """As of a model that rules classes out with -inf."""
    x = torch.tensor([-math.inf, 1.0, 2.0], requires_grad=True)
    value = evaluate(parse("softmax(x)[1]"), x)
    (slope,) = torch.autograd.grad(value, x)
    p = 1 / (1 + math.e)
    assert value.item() == pytest.approx(p, rel=1e-12)
    assert slope.tolist() == pytest.approx([0, p * (1 - p), -p * (1 - p)], rel=1e-6)
    assert evaluate(parse("x[2] - x[1]"), x).item() == 1
    for text, column in (("x[0]", 2), ("sum(x)", 1), ("x[0] - x[0]", 6)):
        with pytest.raises(InvalidExpression, match="the output x itself holds numbers") as caught:
            evaluate(parse(text), x)
        assert caught.value.extensions["column"] == column
    with pytest.raises(InvalidExpression, match="log gives nan here"):
        evaluate(parse("x[0] + log(x[1] - 5)"), x)


def test_an_empty_output_and_one_without_dimensions() -> None:
    with pytest.raises(InvalidExpression, match=r"the output x is empty: its shape is \(0, 3\)"):
        evaluate(parse("sum(x)"), torch.zeros(0, 3))
    assert evaluate(parse("2 * x"), torch.tensor(3.0)).item() == 6


def peak_is_refused(text: str, x: Tensor) -> InvalidExpression:
    with pytest.raises(InvalidExpression, match="too many numbers") as caught:
        evaluate(parse(text), x)
    return caught.value


def test_shapes_that_multiply_are_refused_before_memory_is_taken() -> None:
    x = torch.zeros(300_000, 1)  # 90 thousand million numbers: 720 GB
    error = peak_is_refused("sum(x + x[:, 0])", x)
    assert "this step gives the shape (300000, 300000)" in str(error)
    assert error.extensions["column"] == 7
    error = peak_is_refused("sum(x * (x[9:] < x[:, 0]))", x)
    assert "this step gives the shape (299991, 300000)" in str(error)
    assert error.extensions["column"] == 16
    thousand = torch.ones(1000, 1)
    assert evaluate(parse("sum(x * x[:, 0])"), thousand).item() == MAX_ELEMENTS
    peak_is_refused("sum(x * x[:, 0])", torch.ones(1001, 1))


def test_large_outputs_are_taken_and_long_expressions_on_them_are_not() -> None:
    large = torch.ones(2 * MAX_ELEMENTS)
    assert evaluate(parse("sum(x * (x > 0))"), large).item() == len(large)
    error = peak_is_refused(f"sum({' * '.join(['x'] * 30)})", large)
    assert error.extensions["column"] == 4 + 4 * 20 + 3  # the 21st product
    error = peak_is_refused(f"sum({'-' * 25}x)", large)
    assert error.extensions["column"] == 4 + 25 - 20  # the 21st sign, from x on
    small = torch.ones(1000)
    assert evaluate(parse(f"sum({' * '.join(['x'] * 99)})"), small).item() == 1000


def test_the_tallest_tree_leaves_half_of_the_stack() -> None:
    text = "x"
    for depth in range(31, 24, -1):
        text = f"({text}{'[0:]' * (32 - depth)})"
    text = f"x[0] + sum({text})"
    assert evaluate(parse(text), CLASSES).item() == pytest.approx(float(CLASSES[0] + CLASSES.sum()))
