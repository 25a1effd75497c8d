"""Names that would like to be lines of their own, or to command a terminal."""

__all__ = ["HOSTILE"]

HOSTILE = (
    "a\n12:00:00 info      forged",
    'a\r\n{"event": "forged", "level": "info"}',
    "a\x1b[2J\x1b[31mred",
    "a\x9b31m\x85b\u2028c\u2029d",  # C1 controls, and what else ends a line
    "a\u202egnp.exe\u2066",  # written from right to left
    "a\x00\x07\x08\x7f",
    "half \ud800 a pair",
    "\x0b\x0c\x1c\x1d\x1e",  # what Python's splitlines takes for ends
)
