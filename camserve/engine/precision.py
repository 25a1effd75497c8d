"""A backbone in half precision under a head in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from camserve.vocabulary import Precision

__all__ = ["DTYPES", "Backbone", "casting_head", "is_half"]

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def is_half(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16)


class Backbone(AbstractContextManager["Backbone"]):
    """Around one forward pass: autocast from its start to the first feature layer.

    Autocast keeps the weights in float32 and casts what gains from it, operation by operation, so
    that norms and softmaxes stay exact. `float32`: nothing is done.
    """

    def __init__(self, device: torch.device, precision: Precision = "float32") -> None:
        self._device = device.type
        self._dtype = DTYPES[precision]
        self._stack = ExitStack()
        self.ended = precision == "float32"

    def __enter__(self) -> Self:
        if not self.ended:
            self._stack.enter_context(torch.autocast(self._device, self._dtype))
        return self

    def end(self) -> None:
        """The head begins, or goes on: float32 from here on.

        Again and again, because a model's own `with autocast(enabled=False)` around the feature
        layer turns ours on again where it ends.
        """
        if self._dtype != torch.float32:
            torch.set_autocast_enabled(self._device, False)  # noqa: FBT003 - torch's own signature
        self.ended = True

    def leaf(self, taken: Tensor) -> Tensor:
        """What the feature layer returned as a leaf of its own memory, float32 behind autocast."""
        dtype = torch.float32 if self._dtype != torch.float32 else taken.dtype
        return taken.detach().to(dtype, copy=True).requires_grad_()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)  # puts autocast back to what it was


@contextmanager
def casting_head(model: nn.Module, backbone: Backbone) -> Iterator[None]:
    """Inside, every module of the head turns half-precision inputs into float32.

    For heads that read something of the backbone past the feature layer (the skips of a U-Net):
    a float32 weight and a half input do not multiply.
    """

    def cast(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not backbone.ended:
            return None
        backbone.end()
        return tuple(map(_wide, args)), {name: _wide(arg) for name, arg in kwargs.items()}

    with ExitStack() as borrowed:
        for module in model.modules():
            handle = module.register_forward_pre_hook(cast, with_kwargs=True)
            borrowed.callback(handle.remove)
        yield


def _wide(arg: Any) -> Any:
    return arg.float() if isinstance(arg, Tensor) and is_half(arg.dtype) else arg
