"""The sizes of preprocessing, rounded as the models' own libraries round them."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from camserve.errors import InvalidRequest

__all__ = [
    "RESIZE_MODES",
    "CropRounding",
    "ResizeMode",
    "Size",
    "centred_offset",
    "resized_size",
]

Size: TypeAlias = tuple[int, int]
ResizeMode = Literal["stretch", "shortest_edge", "letterbox", "none"]
CropRounding = Literal["transformers", "torchvision"]

RESIZE_MODES: Final[tuple[ResizeMode, ...]] = get_args(ResizeMode)


def resized_size(
    size: Size, mode: ResizeMode, resize: int | Size | None, input_size: Size | None
) -> tuple[Size, Size]:
    """The upright size after the resize, and that of the window which is taken without a crop.

    Raises InvalidRequest when there is nothing to resize to.
    """
    if mode == "none":
        return size, size
    if resize is None and input_size is None:
        raise InvalidRequest(f"resize mode {mode!r} needs a size: give resize or input_size")
    target = input_size if resize is None else resize
    if mode == "shortest_edge":
        if isinstance(target, tuple):
            target = min(target)
        resized = _shortest_edge(size, target or 0)
        return resized, input_size or resized
    box = target if isinstance(target, tuple) else (target or 0, target or 0)
    if min(box) < 1:
        raise InvalidRequest(f"a size must be at least 1 pixel, not {box}", field="resize")
    return (_fitting(size, box) if mode == "letterbox" else box), box


def _shortest_edge(size: Size, edge: int) -> Size:
    height, width = size
    if edge < 1:
        raise InvalidRequest(f"the shortest edge must be at least 1 pixel, not {edge}")
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _fitting(size: Size, box: Size) -> Size:
    scale = min(box[0] / size[0], box[1] / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def centred_offset(length: int, window: int, rounding: CropRounding) -> int:
    """Where a window of `window` starts on an axis of `length`; negative when it is padded."""
    margin = length - window
    if rounding == "transformers":
        return margin // 2
    # torchvision pads the smaller half first, and rounds a crop as Python does, half to even.
    return -(-margin // 2) if margin < 0 else round(margin / 2)
