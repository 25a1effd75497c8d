"""Recurrent layers on a GPU: cuDNN's refuse a backward pass in evaluation mode, torch's do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["PlainRecurrence"]

_REFUSAL = "cudnn RNN backward can only be called in training mode"

Result = TypeVar("Result")


class PlainRecurrence:
    """Runs what may hold a recurrent layer, without cuDNN once it has refused; one for each model.

    Found out by trying: a program that was exported holds no module that would tell, and without
    cuDNN convolutions are slower too.
    """

    def __init__(self) -> None:
        self._needed = False

    def run(self, call: Callable[[], Result]) -> Result:
        if not self._needed:
            try:
                return call()
            except RuntimeError as error:
                if _REFUSAL not in str(error):
                    raise
            self._needed = True
        with torch.backends.cudnn.flags(enabled=False):
            return call()
