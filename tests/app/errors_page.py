"""docs/errors.md, written from the tables that the service itself answers from.

    python -m tests.app.errors_page

writes it anew.
"""

from __future__ import annotations

from http import HTTPStatus
from itertools import groupby

from app.problem_texts import ADVICE, TITLE
from app.problems import STATUS
from camserve.errors import ErrorCode
from tests.service import ROOT

__all__ = ["PATH", "page"]

PATH = ROOT / "docs" / "errors.md"
_HEAD = """\
# Errors

Every error is an [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem, \
`application/problem+json`:

```json
{
  "type": "/problems/class_index_out_of_range",
  "title": "The class index is out of range",
  "status": 422,
  "code": "class_index_out_of_range",
  "detail": "class index 8 is out of range: the model has 8 classes, 0 to 7 (indices start at 0)",
  "instance": "/v1/explanations",
  "request_id": "3a8edb2b83d50b0e",
  "class_index": 8,
  "minimum": 0,
  "maximum": 7
}
```

`code` is for programs and is never renamed; `detail` is for people, says what is wrong and what \
to do, and may change. Further members depend on the code: `field` and `errors` (what is wrong in \
the request), `near` and `candidates` (what was probably meant), `limit`, `column`, `input` (the \
number of the input at fault), `retry_after_s` (also as `Retry-After`). `request_id` is in the \
logs. `type` leads to the text below, at the service itself.

A 4xx is mended by changing the request, a 503 or 429 by waiting as long as `Retry-After` says; \
a 500 has an `error_id` to look up in the log. An explanation that failed is, when it is read \
later, a 200 with `state: failed` and the same document in `error`.

The routes of the neighbours' protocols answer with the same members as `application/json`, and \
with `error` in place of `detail`, which their clients read.

This page is written from the tables of the code (`python -m tests.app.errors_page`).
"""


def page() -> str:
    codes = sorted(ErrorCode, key=lambda code: STATUS[code])
    parts = [_HEAD]
    for status, group in groupby(codes, key=lambda code: STATUS[code]):
        parts.append(f"\n## {status} {HTTPStatus(status).phrase}\n")
        parts += [f"\n### {code}\n\n{TITLE[code]}. {ADVICE[code]}\n" for code in group]
    return "".join(parts)


if __name__ == "__main__":
    PATH.write_text(page(), "utf-8")
