"""The command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from camserve.__main__ import main

__all__ = ["Camserve", "Done", "runner"]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


Camserve = Callable[..., Done]


def runner(url: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> Camserve:
    """`camserve ARGUMENTS`, with the service at `url` unless --url says otherwise."""
    monkeypatch.setenv("CAMSERVE_URL", url)

    def run(*arguments: object) -> Done:
        capfdbinary.readouterr()
        try:
            code = main([str(one) for one in arguments])
        except SystemExit as stop:
            code = int(str(stop.code))
        out, err = capfdbinary.readouterr()
        return Done(code, out, err.decode())

    return run
