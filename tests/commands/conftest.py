"""What the tests of commands share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.commands.in_process import Camserve, runner
from tests.service import Service


@pytest.fixture
def camserve(service: Service, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> Camserve:
    """`camserve ARGUMENTS`, with the service of the tests unless --url says otherwise."""
    return runner(service.url, monkeypatch, capfdbinary)
