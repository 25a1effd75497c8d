"""What every source gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Loaded"]


@dataclass(frozen=True)
class Loaded:
    """A module, and what its source says of its input and labels.

    input: fields of PictureSpec, or of TensorSpec if `shape` is among them. Where the card says
    otherwise, the card wins.
    """

    module: nn.Module
    input: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
