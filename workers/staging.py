"""Payloads that are read ahead, while the device computes, and whose inputs are moved there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from camserve.contracts.jobs import input_name
from camserve.engine import is_out_of_memory

__all__ = ["Staged", "Staging"]


@dataclass(frozen=True)
class Staged:
    """The tensors of one payload. arrived: of a GPU, when its inputs are there."""

    _tensors: Mapping[str, Tensor]
    _arrived: torch.cuda.Event | None = None

    def tensors(self) -> Mapping[str, Tensor]:
        """By name. For the thread that computes: on a GPU, what it launches from now on waits for
        them there, and the thread does not."""
        for tensor in self._tensors.values():
            if tensor.is_cuda and self._arrived is not None:
                computing = torch.cuda.current_stream(tensor.device)
                computing.wait_event(self._arrived)
                tensor.record_stream(computing)  # it was allocated for the copying one
        return self._tensors


class Staging:
    """One per worker. On a GPU, inputs are copied from pinned memory by a stream of their own."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._copying: torch.cuda.Stream | None = None

    def read(self, payload: bytes) -> Staged | None:
        """In a side thread, one at a time. None of a damaged payload: who computes it says so."""
        try:
            tensors = load(payload)
        except SafetensorError:
            return None
        if self._device.type != "cuda":
            return Staged(tensors)
        try:
            return self._on_its_way(tensors)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return Staged(tensors)  # the batch that is computed needs the room

    def _on_its_way(self, tensors: Mapping[str, Tensor]) -> Staged:
        if self._copying is None:
            self._copying = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        inputs = {input_name(index) for index in range(len(tensors))}.intersection(tensors)
        # the device as well: else leaving the stream takes memory of the first GPU
        with torch.cuda.device(self._device), torch.cuda.stream(self._copying):
            moved = {
                name: tensors[name].pin_memory().to(self._device, non_blocking=True)
                for name in inputs
            }
            return Staged({**tensors, **moved}, self._copying.record_event())
