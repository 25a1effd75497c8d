"""A place in the tokens of an expression, and what to say when the wrong one stands there."""

from __future__ import annotations

from collections.abc import Sequence

from camserve.errors import InvalidExpression
from camserve.expressions.tokens import AND, OR, Token, tokens
from camserve.expressions.tree import Position

__all__ = ["Cursor"]

MAX_INDEX = 10**9
"""Beyond any axis; a larger one would only make a long message."""

_WORDS = {"and": AND, "or": OR}


class Cursor:
    """`token` is the next one, `end` the last column of the one before it.

    It is read no further, so that the leftmost fault is reported.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self.token = next(self._tokens)
        self.end = 0

    def at(self, *texts: str) -> bool:
        """Whether the next token is one of these operators."""
        return self.token.text in texts

    def take(self) -> Token:
        """The next token, which is not the end; the cursor moves behind it."""
        taken, self.token = self.token, next(self._tokens)
        self.end = taken.end
        return taken

    def close(self, opening: Token, closing: str) -> None:
        """Takes the bracket `closing`, which has to end what `opening` began."""
        if self.at(closing):
            self.take()
            return
        if self.token.kind == "end":
            raise self.fail(f"{opening.quoted} is never closed", opening.start)
        if self.at(")", "]"):
            raise self.fail(
                f"{self.token.quoted} stands where {closing!r} has to close the {opening.quoted} "
                f"of column {opening.start}"
            )
        raise self.unexpected()

    def integer(self) -> Position | None:
        """A whole number, with or without a sign; None, behind the sign, if there is none."""
        sign = self.take() if self.at("+", "-") else None
        if self.token.kind != "number" or not self.token.text.isdigit():
            return None
        value = int(self.token.text)
        if value > MAX_INDEX:
            raise self.fail(f"no axis is as long as {self.token.quoted}")
        first = sign or self.token
        self.take()
        negative = sign is not None and sign.text == "-"
        return Position(first.start, self.end, first.start, -value if negative else value)

    def fail(
        self, detail: str, column: int | None = None, near: Sequence[str] = ()
    ) -> InvalidExpression:
        """The error, by default at the next token."""
        return InvalidExpression(detail, self._text, column or self.token.start, near)

    def no_value(self) -> InvalidExpression:
        """What stands here is not the beginning of a value."""
        if not self._text.strip():
            return self.fail("the expression is empty: write for example x[0]", 1)
        if self.token.kind == "end":
            return self.fail("a value is missing at the end")
        return self.fail(f"a value is missing before {self.token.quoted}")

    def unexpected(self) -> InvalidExpression:
        """What stands here cannot follow a value."""
        token = self.token
        if token.text in _WORDS:
            return self.fail(f"there is no {token.quoted}: {_WORDS[token.text]}")
        if token.kind in ("number", "name") or self.at("("):
            return self.fail(f"an operator is missing before {token.quoted}: * for a product")
        if self.at(","):
            return self.fail("a comma stands in an index, x[0, 1], or before an axis, sum(x, 0)")
        if self.at(":"):
            return self.fail("a colon stands in an index alone, such as x[1:3]")
        if self.at(")", "]"):
            return self.fail(f"{token.quoted} was never opened")
        return self.fail(
            f"{token.quoted} has no place here: an index or an axis is written out, not calculated"
        )
