from __future__ import annotations

import pytest

from camserve.broker import EXECUTION, executions_of, fits


@pytest.mark.parametrize(
    ("device", "executions"),
    [
        ("cpu", ("auto", "cpu")),
        ("cpu:0", ("auto", "cpu")),
        ("cuda:0", ("auto", "cuda", "cuda:0")),
        ("cuda:17", ("auto", "cuda", "cuda:17")),
        ("cuda", ("auto", "cuda", "cuda:0")),  # torch's default
        ("cuda:100", ("auto", "cuda")),  # out of reach by name, but a GPU all the same
        ("mps", ("auto",)),
        ("auto", ("auto",)),
    ],
)
def test_what_a_device_executes(device: str, executions: tuple[str, ...]):
    assert executions_of(device) == executions
    for execution in ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:17", "cuda:100", "mps"):
        assert fits(execution, device) == (execution in executions)


@pytest.mark.parametrize("execution", ["auto", "cpu", "cuda", "cuda:0", "cuda:9", "cuda:99"])
def test_what_a_request_may_name(execution: str):
    assert EXECUTION.fullmatch(execution)


@pytest.mark.parametrize(
    "execution",
    # cuda:01 would be a second name of cuda:1, and so would digits of other scripts
    [
        *("", "gpu", "AUTO", "cpu:0", "cuda:", "cuda:100", "cuda:01", "cuda:-1", "cuda:1\n"),
        *("cuda:\u0661", "cuda:1\u0661"),
    ],
)
def test_what_it_may_not(execution: str):
    assert not EXECUTION.fullmatch(execution)
    assert not fits(execution, "cuda:1")
