"""Memory that runs out is told apart from everything else that goes wrong in a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

from camserve.engine import ClassIndex, Explainer, is_out_of_memory
from camserve.errors import InvalidInput

TOO_MUCH = 1 << 46
"""Bytes: more than an address space holds, so that every machine refuses it."""


def of_a_gpu() -> NoReturn:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def of_a_library() -> NoReturn:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def of_compiled_code() -> NoReturn:
    """It throws no types, only texts."""
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total of 15")


def of_convolutions() -> NoReturn:
    raise RuntimeError("GET was unable to find an engine to execute this computation")


def wrapped() -> NoReturn:
    try:
        torch.empty(TOO_MUCH)
    except RuntimeError as error:
        raise ValueError("the block failed") from error


def while_another_was_handled() -> NoReturn:
    try:
        bytearray(TOO_MUCH)
    except MemoryError:
        raise KeyError("cleaning up failed")  # noqa: B904 - as a careless model does


def another() -> NoReturn:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x4 and 8x2)")


def hidden() -> NoReturn:
    try:
        torch.empty(TOO_MUCH)
    except RuntimeError:
        raise ValueError("another matter") from None


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (lambda: torch.empty(TOO_MUCH), True),
        (lambda: bytearray(TOO_MUCH), True),
        (of_a_gpu, True),
        (of_a_library, True),
        (of_compiled_code, True),
        (of_convolutions, True),
        (wrapped, True),
        (while_another_was_handled, True),
        (another, False),
        (hidden, False),
    ],
)
def test_what_says_that_memory_ran_out(fail: Callable[[], object], expected: bool) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of any kind
        fail()
    assert is_out_of_memory(caught.value) is expected


class Greedy(nn.Module):
    """Its head asks for too much memory for more than `most` numbers of features."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.features = nn.Conv2d(1, 2, 3, padding=1)
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).relu()
        if features.numel() > self.most:
            torch.empty(TOO_MUCH)
        return self.head(features.mean((2, 3)))


def test_it_is_not_disguised_as_an_input_of_a_wrong_size() -> None:
    explainer = Explainer(Greedy(2 * 2 * 64), torch.zeros(1, 1, 8, 8))
    large = torch.zeros(1, 1, 32, 32)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as caught:
        explainer.explain(large, [[ClassIndex(0)]])
    assert not isinstance(caught.value, InvalidInput)


def test_a_head_without_memory_is_not_one_that_takes_no_more_rows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else Ablation-CAM would go on by whole passes, with the same error in the end."""
    caplog.set_level("INFO")
    network = Greedy(2 * 2 * 64)
    explainer = Explainer(network, torch.zeros(1, 1, 8, 8))
    network.most = 2 * 64
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        explainer.explain(torch.rand(1, 1, 8, 8), [[ClassIndex(0)]], method="ablationcam")
    assert "runs whole passes" not in caplog.text
    ((found,),) = explainer.explain(
        torch.rand(1, 1, 8, 8), [[ClassIndex(0)]], method="ablationcam", chunk=1
    )
    assert found.map.shape == (8, 8)


def test_a_device_without_memory_is_not_a_network_that_takes_one_input() -> None:
    """It would be served one input at a time for ever after."""
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        Explainer(Greedy(2 * 64), torch.zeros(1, 1, 8, 8))
