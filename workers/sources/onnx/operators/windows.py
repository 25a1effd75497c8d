"""Paddings of sliding windows: given, or worked out from the input's size (`auto_pad`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from workers.sources.onnx.operators.creation import bounded
from workers.sources.onnx.operators.node import Node

__all__ = ["Windows", "pad", "split"]


@dataclass(frozen=True)
class Windows:
    """Windows over the last `len(kernel)` dimensions of a tensor."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    auto_pad: str
    ceil: bool

    @classmethod
    def of(cls, node: Node, kernel: Sequence[int]) -> Windows:
        rank = len(kernel)
        pads = node.get("pads") or [0] * 2 * rank
        return cls(
            tuple(kernel),
            tuple(node.get("strides") or [1] * rank),
            tuple(node.get("dilations") or [1] * rank),
            tuple(zip(pads[:rank], pads[rank:], strict=True)),
            node.get("auto_pad", "NOTSET"),
            bool(node.get("ceil_mode", 0)),
        )

    @property
    def extent(self) -> tuple[int, ...]:
        """Of one window, holes of the dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def padding(self, sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Before and after each dimension, for an input of these sizes."""
        if self.auto_pad == "VALID":
            return ((0, 0),) * len(self.kernel)
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            needed = [
                max((-(-size // step) - 1) * step + extent - size, 0)
                for size, step, extent in zip(sizes, self.stride, self.extent, strict=True)
            ]
            return split(needed, upper=self.auto_pad == "SAME_UPPER")
        return self.pads

    def count(self, sizes: Sequence[int], padding: Sequence[int]) -> list[int]:
        """How many windows there are, for the same padding on both sides."""
        return [
            (size + 2 * side - extent) // step + 1
            for size, side, extent, step in zip(
                sizes, padding, self.extent, self.stride, strict=True
            )
        ]

    def spread(self, sizes: Sequence[int]) -> list[int]:
        """What so many windows cover."""
        return [
            step * (size - 1) + extent
            for size, step, extent in zip(sizes, self.stride, self.extent, strict=True)
        ]

    def ceiled(
        self, sizes: Sequence[int], pads: Sequence[tuple[int, int]]
    ) -> tuple[tuple[int, int], ...]:
        """`pads`, with what a last window needs that only begins inside the input."""
        if not self.ceil or self.auto_pad != "NOTSET":
            return tuple(pads)
        grown = []
        for size, (before, after), step, extent in zip(
            sizes, pads, self.stride, self.extent, strict=True
        ):
            windows = -(-(size + before + after - extent) // step) + 1
            if (windows - 1) * step >= size + before:
                windows -= 1  # it would begin in the padding
            grown.append((before, max((windows - 1) * step + extent - size - before, after)))
        return tuple(grown)


def split(needed: Sequence[int], *, upper: bool) -> tuple[tuple[int, int], ...]:
    """A padding as two sides; of an odd one, the larger part comes after if `upper`."""
    halves = [(total // 2, total - total // 2) for total in needed]
    return tuple(halves if upper else [(after, before) for before, after in halves])


def pad(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad the last dimensions of x; the same tensor where there is nothing to add."""
    if not any(map(any, pads)):
        return x
    sides = [before + after for before, after in pads]
    at = x.ndim - len(sides)
    bounded([*x.shape[:at], *map(sum, zip(x.shape[at:], sides, strict=True))])
    return functional.pad(x, [side for pair in reversed(pads) for side in pair], value=value)
