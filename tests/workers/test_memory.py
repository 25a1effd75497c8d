"""Memory is given back to a device, and not in the middle of a capture."""

from __future__ import annotations

import threading

import pytest
import torch

from camserve.engine.exclusion import tracing
from workers.memory import free_memory


def test_a_gpu_is_not_emptied_while_launches_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = threading.Event()
    monkeypatch.setattr(torch.cuda, "empty_cache", emptied.set)
    freeing = threading.Thread(target=free_memory, args=("cuda:0",))
    with tracing():  # as a capture does
        freeing.start()
        assert not emptied.wait(0.2)
    freeing.join()
    assert emptied.is_set()


def test_a_cpu_has_nothing_to_be_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("there is no GPU"))
    free_memory("cpu")
