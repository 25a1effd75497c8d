"""The language is closed: nothing of Python, and no name but those that it lists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given, settings

import camserve.engine.expressions
import camserve.expressions
from camserve.errors import InvalidExpression
from camserve.expressions import FUNCTIONS, Call, parse, walk
from tests.expressions.grammar import generated, mutated

ATTACKS = [
    "__import__('os')",
    "__import__",
    "__builtins__",
    "x.__class__",
    "x.data",
    "x.shape[0]",
    "x.sum()",
    "x.T",
    "().__class__",
    "(1).__class__",
    "1.real",
    "1 .real",
    "sum.__globals__",
    "sum(x).__class__.__base__.__subclasses__()",
    "lambda: x",
    "lambda x: x",
    "x if x else x",
    "[x for x in x]",
    "(x := 3)",
    "x = 3",
    "x; x",
    "x\\\n+ 1",
    "x # comment",
    "f'{x}'",
    'f"{x}"',
    "'x'",
    "b'x'",
    "`x`",
    "$x",
    "@x",
    "{x}",
    "{x: 1}",
    "(x,)",
    "*x",
    "sum(*x)",
    "sum(**x)",
    "x[...]",
    "x[None]",
    "x[x]",
    "x['a']",
    "x[True]",
    "x[0x1]",
    "x[0]()",
    "sum(x)(x)",
    "sum(sum)",
    "x(x)",
    "open('/etc/passwd')",
    "eval('x')",
    "exec('x')",
    "compile",
    "getattr(x, 'data')",
    "globals()",
    "torch.load",
    "torch",
    "self",
    "_",
    "_(x)",
    "_x",
    "None",
    "True",
    "not x",
    "await x",
    "yield x",
    "print(x)",
    "1j * x",
    "nan * x",
    "inf * x",
    # looks like x, a digit or an operator, and is none
    "\u0445[0]",  # cyrillic small letter ha
    "\u2179[0]",  # small roman numeral ten
    "\uff58[0]",  # fullwidth latin small letter x
    "\U0001d431[0]",  # mathematical bold small x
    "\u03c7[0]",  # greek small letter chi
    "x[\u0663]",  # arabic-indic digit three
    "x[\u00b2]",  # superscript two
    "x[\uff11]",  # fullwidth digit one
    "x[\u07c1]",  # nko digit one
    "x * \uff15",  # fullwidth digit five
    "x \uff0b 1",  # fullwidth plus sign
    "x\uff3b0\uff3d",  # fullwidth left square bracket
    "\u0455um(x)",  # cyrillic small letter dze
    "sum\uff08x\uff09",  # fullwidth left parenthesis
    "x\u0301[0]",
    "\ufeffx[0]",
    "x[0]\u202e",
    "x\u00a0+ 1",
    "x\u20281",
]


@pytest.mark.parametrize("text", ATTACKS, ids=ascii)
def test_nothing_of_python_can_be_reached(text: str) -> None:
    for around in ("{}", "x[0] + {}", "sum({})", "{} + x[0]"):
        with pytest.raises(InvalidExpression):
            parse(around.format(text))


WORD = re.compile(r"[^\W\d]\w*")


@settings(max_examples=500)
@given(text=generated.map("x+{}".format) | mutated())
def test_every_name_that_parses_is_in_the_list(text: str) -> None:
    try:
        expression = parse(text)
    except InvalidExpression:
        return
    assert text.isascii()
    without_exponents = re.sub(r"(?<![A-Za-z])[0-9.]+[eE]", "0", text)
    assert set(WORD.findall(without_exponents)) <= {"x", *FUNCTIONS}
    assert {node.function for node in walk(expression.root) if isinstance(node, Call)} <= set(
        FUNCTIONS
    )


def test_the_code_itself_runs_no_text() -> None:
    folder = Path(camserve.expressions.__file__).parent
    files = [*folder.glob("*.py"), Path(camserve.engine.expressions.__file__)]
    assert len(files) > 5
    for file in files:
        module = ast.parse(file.read_text())
        names = {node.id for node in ast.walk(module) if isinstance(node, ast.Name)}
        forbidden = {"eval", "exec", "compile", "getattr", "setattr", "globals", "__import__"}
        assert names & (forbidden | {"vars", "locals", "open", "pickle", "ast"}) == set(), file
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(module)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert imported <= {"math", "re", "torch", "unicodedata"}, file
