"""From characters to tokens. ASCII alone, so that no look-alike passes for `x` or a digit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from camserve.errors import InvalidExpression

__all__ = ["AND", "OR", "Token", "tokens"]


class Token(NamedTuple):
    """`kind` is number, name, operator or end; `start` and `end` are columns, from 1."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text) - 1

    @property
    def quoted(self) -> str:
        """For a message: a text may be as long as an expression."""
        return repr(self.text if len(self.text) <= 30 else f"{self.text[:30]}…")


_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r"|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)"
    r"|(?P<mistake>\*\*|//|~=|\.\*|\./|\.\.\.|&&|\|\|)"
    r"|(?P<operator>==|!=|<=|>=|[-+*/<>()\[\],:])"
    r"|(?P<other>.)",
    re.DOTALL,
)

_POWER = "there are no powers: write x[0] * x[0], or exp(3 * log(x[0]))"
_ELEMENTWISE = "write it without the dot: operators work element by element"
AND = "masks are combined by a product: (x > 0) * (x < 1)"
OR = "one of two masks holds where their sum is above 0: (x < 0) + (x > 1) > 0"
_NOT = "the opposite of a mask is 1 - mask"
_STRING = "the language has no strings"

_REMEDIES = {
    "**": _POWER,
    "^": _POWER,
    "//": "write / to divide",
    "=": "write == to compare",
    "~=": "write != for unequal",
    ".*": _ELEMENTWISE,
    "./": _ELEMENTWISE,
    "...": "write a : for each axis, such as x[:, :, 0]",
    ".": "nothing has attributes; a decimal point stands beside a digit",
    "&": AND,
    "&&": AND,
    "|": OR,
    "||": OR,
    "!": _NOT,
    "~": _NOT,
    "'": _STRING,
    '"': _STRING,
    "{": "write ( and )",
    "\u00a0": "write a plain space",
    "\u2212": "write - instead",
    "\u2013": "write - instead",
    "\u00d7": "write * instead",
    "\u00b7": "write * instead",
    "\u00f7": "write / instead",
    "\u2264": "write <= instead",
    "\u2265": "write >= instead",
    "\u2260": "write != instead",
}
"""What other languages and word processors write, and what to write here."""


def tokens(text: str) -> Iterator[Token]:
    """The tokens of `text`, with one of kind `end` behind the last.

    Raises InvalidExpression when it comes to a character that is none of the language's.
    """
    for match in _TOKEN.finditer(text):
        kind, found, column = str(match.lastgroup), match.group(), match.start() + 1
        if kind in ("mistake", "other"):
            raise InvalidExpression(_refusal(found), text, column)
        if kind != "space":
            yield Token(kind, found, column)
    yield Token("end", "", len(text) + 1)


def _refusal(found: str) -> str:
    what = repr(found)
    if not found.isascii():
        what += f" (U+{ord(found):04X} {unicodedata.name(found, 'without a name')})"
    remedy = _REMEDIES.get(found)
    if remedy is None:
        remedy = "it has ASCII letters, digits and operators"
    return f"{what} is not part of the language: {remedy}"
