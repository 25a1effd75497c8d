"""Pictures travel as grey levels, a byte each; on the device they become what the network takes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from camserve.contracts.input_specs import InputSpec, PictureSpec
from camserve.errors import InvalidInput

__all__ = ["network_input"]


def network_input(sent: Tensor, spec: InputSpec | None) -> Tensor:
    """Inputs as the network takes them, float32, of the same shape and on the same device.

    sent: one input, or a batch of them; uint8, the grey levels of pictures, channels in the
    network's order, which become (level * scale - mean) / std as the specification says; or
    float32, which is ready.
    Raises InvalidInput for grey levels where the model takes no pictures.
    """
    if sent.dtype != torch.uint8:
        return sent
    if not isinstance(spec, PictureSpec):
        raise InvalidInput("grey levels were sent to a model that takes no pictures")
    mean, std = _columns(spec, sent.device)
    return sent.to(torch.float32).mul_(spec.scale).sub_(mean).div_(std)


@lru_cache(maxsize=64)
def _columns(spec: PictureSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation, one value a channel, or one for all. Kept: to make them on a GPU, the
    thread that computes would have to wait for it."""
    shape = (-1, 1, 1) if spec.format == "BCSS" else (-1,)
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).reshape(shape)
        for values in (spec.mean, spec.std)
    )
    return mean, std
