"""The page of errors is that of the tables."""

from __future__ import annotations

import json
import re

from app.problems import STATUS
from camserve.errors import ClassIndexOutOfRange, ErrorCode
from tests.app.errors_page import PATH, page


def test_the_page_is_that_of_the_tables() -> None:
    assert PATH.read_text("utf-8") == page(), "run `python -m tests.app.errors_page`"


def test_every_code_is_there_under_its_status() -> None:
    found: dict[str, int] = {}
    status = 0
    for line in PATH.read_text("utf-8").splitlines():
        if heading := re.match(r"## (\d{3}) ", line):
            status = int(heading[1])
        elif code := re.match(r"### (\w+)$", line):
            found[code[1]] = status
    assert found == {str(code): STATUS[code] for code in ErrorCode}


def test_its_example_is_such_an_error() -> None:
    block = re.search(r"```json\n(.*?)```", PATH.read_text("utf-8"), re.DOTALL)
    assert block is not None
    shown = json.loads(block[1])
    error = ClassIndexOutOfRange(8, 8)
    assert shown["detail"] == str(error)
    assert error.extensions.items() <= shown.items()
