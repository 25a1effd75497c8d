"""What inputs a model takes: their dimensions, sizes, device and dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from camserve.dimensions import check_format, default_format, space_and_time
from camserve.engine.exhaustion import is_out_of_memory
from camserve.engine.layouts import Extent
from camserve.errors import InvalidInput, InvalidRequest

__all__ = ["AcceptedInputs", "labels_of"]


@dataclass(frozen=True)
class AcceptedInputs:
    """Inputs like the probe: (N, ...) with dimensions labelled `labels`, N where it has its B.

    Channels as the probe's; space and time may differ, as far as the model goes along.
    """

    labels: str
    probe_shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype

    @property
    def batch_dimension(self) -> int:
        return self.labels.index("B")

    def extent_of(self, inputs: Tensor) -> Extent:
        """Space and time of inputs."""
        sizes = zip(inputs.shape, self.labels, strict=True)
        return Extent(space_and_time(self.labels), tuple(n for n, a in sizes if a in "ST"))

    def check(self, inputs: Tensor) -> Extent:
        """The inputs' space and time. Raises InvalidInput."""
        shape = tuple(inputs.shape)
        fits = len(shape) == len(self.labels) and 0 not in shape
        if not fits or any(
            size != known
            for size, known, letter in zip(shape, self.probe_shape, self.labels, strict=True)
            if letter in "CU"
        ):
            expected = tuple(
                "N" if letter == "B" else str(size)
                for size, letter in zip(self.probe_shape, self.labels, strict=True)
            )
            raise InvalidInput(f"the model takes inputs like ({', '.join(expected)}), not {shape}")
        return self.extent_of(inputs)

    def place(self, inputs: Tensor) -> Tensor:
        """On the model's device, in its dtype, and fit for autograd."""
        placed = inputs.detach().to(self.device, self.dtype)
        return placed.clone() if placed.is_inference() else placed

    @contextmanager
    def blamed_for_their_size(self, inputs: Tensor) -> Iterator[None]:
        """What goes wrong inside for an input of another size than the probe's is the input's
        fault; for one of the probe's size it is the model's, and is not disguised."""
        try:
            yield
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            one, known = self._of_one(tuple(inputs.shape)), self._of_one(self.probe_shape)
            if one == known or is_out_of_memory(error):
                raise
            raise InvalidInput(
                f"the model cannot take an input of shape {one}: it was loaded for {known} "
                f"({error})"
            ) from error

    def _of_one(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Without the batch."""
        return tuple(n for n, letter in zip(shape, self.labels, strict=True) if letter != "B")


def labels_of(probe: Tensor, asked: str | None) -> str:
    """The labels of the probe's dimensions: those asked for, or by their number BCT, BCSS, BCSSS.

    Raises InvalidInput, InvalidRequest.
    """
    labels = asked or default_format(probe.ndim)
    if labels is None:
        raise InvalidInput(
            f"the probe must be one input, (1, C, *S), or input_format must label its "
            f"{probe.ndim} dimensions"
        )
    check_format(labels, "input_format")
    if "B" not in labels or not space_and_time(labels) or "U" in labels:
        raise InvalidRequest(
            f"input_format {labels!r} must have a B, and an S or T", field="input_format"
        )
    if len(labels) != probe.ndim or probe.shape[labels.index("B")] != 1:
        raise InvalidInput(f"the probe must be one input, labelled {labels}: {tuple(probe.shape)}")
    return labels
