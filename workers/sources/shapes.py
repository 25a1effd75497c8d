"""What the shape of a network's input says: a picture, a volume, a sequence, or nothing to map."""

from __future__ import annotations

from typing import Any

from camserve.contracts.input_specs import PROBE_SIZE
from camserve.errors import UnsupportedModel

__all__ = ["input_fields"]

Shape = tuple[int | None, ...]
_COLORS = {1: "L", 3: "RGB"}
_TENSORS = {3: ("BCT", "BTC"), 4: ("BCSS", "BSSC"), 5: ("BCSSS", "BSSSC")}
"""For so many dimensions: with the channels first, and with the channels last."""


def input_fields(shape: Shape, *, model: str, probe: Shape = ()) -> dict[str, Any]:
    """Fields of PictureSpec or TensorSpec, as far as the shape (with its batch) fixes them.

    None: a free size. probe: for those, what the network takes where it excludes the usual size.
    {} for a shape that is not known. Raises UnsupportedModel for a fixed batch size, and where
    there is nothing to make a map of.
    """
    if not shape:
        return {}
    if shape[0] not in (1, None):
        raise UnsupportedModel(
            f"model {model!r}: it was written for batches of exactly {shape[0]}: write it with a "
            "free batch size (torch.export: dynamic_shapes={0: torch.export.Dim.AUTO} for its "
            "input; torch.onnx: dynamic_axes), or of 1"
        )
    if len(shape) not in _TENSORS:
        raise UnsupportedModel(
            f"model {model!r}: it takes inputs of {len(shape)} dimensions, and camserve explains "
            "networks of pictures, volumes and sequences (3 to 5 dimensions with the batch): "
            + ("there is nothing spatial in it" if len(shape) < 3 else "these are too many")
        )
    return _picture(shape) or _tensor(shape, probe)


def _picture(shape: Shape) -> dict[str, Any]:
    """Four dimensions, of which the second or the last is one of 1 or 3 channels."""
    if len(shape) != 4:
        return {}
    for at, size in ((1, shape[2:]), (3, shape[1:3])):
        channels = shape[at]
        if channels in _COLORS:
            fields = {"height": size[0], "width": size[1]}
            known: dict[str, Any] = {name: value for name, value in fields.items() if value}
            if channels == 1:
                known["colors"] = "L"
            return known if at == 1 else {**known, "format": "BSSC"}
    return {}


def _tensor(shape: Shape, probe: Shape) -> dict[str, Any]:
    first, last = _TENSORS[len(shape)]
    # channels have a fixed number; a volume of 1 or 3 of them may have them last
    few_last = len(shape) == 5 and shape[-1] in _COLORS and shape[1] not in _COLORS
    channels_last = (shape[1] is None and shape[-1] is not None) or few_last
    sizes = [size or 0 for size in shape[1:]]
    fields: dict[str, Any] = {"format": last if channels_last else first, "shape": sizes}
    if any(probe):
        trial = zip(shape[1:], probe[1:], strict=True)
        fields["probe"] = [size or free or PROBE_SIZE for size, free in trial]
    return fields
