"""What transformers does to a picture or a video before its model, as an input specification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["picture_fields", "video_fields"]

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
CROPS_BELOW = 384  # ConvNeXt crops smaller inputs than this, and stretches the others
_UNKNOWN = ("keep_aspect_ratio", "do_pad", "rescale_offset")  # steps that camserve does not have


def picture_fields(processor: Any | None, config: Any) -> dict[str, Any]:
    """Fields of PictureSpec from an image processor of transformers and a model configuration.

    Raises ValueError, TypeError, AttributeError or IndexError for a processor of an unknown kind.
    """
    fields: dict[str, Any] = {}
    if getattr(config, "num_channels", 3) == 1:
        fields["colors"] = "L"
    if processor is None:
        height, width = _pair(getattr(config, "image_size", None))
        return fields | ({"height": height, "width": width} if height and width else {})
    if strange := [name for name in _UNKNOWN if getattr(processor, name, None)]:
        raise ValueError(f"{strange[0]} is not known")
    if getattr(processor, "do_flip_channel_order", None):  # MobileViT's
        fields["colors"] = "BGR"
    if processor.do_resize:
        fields |= _resize(processor)
        fields["filter"] = _FILTERS[int(processor.resample)]
    else:
        fields |= _unresized(processor, config)
    fields["scale"] = processor.rescale_factor if processor.do_rescale else 1.0
    if processor.do_normalize:
        # EfficientNet divides by the deviation a second time
        power = 2 if getattr(processor, "include_top", None) else 1
        deviation = tuple(std**power for std in processor.image_std)
        fields |= {"mean": tuple(processor.image_mean), "std": deviation}
    return fields


def video_fields(folder: Path, names: tuple[str, ...], config: Any) -> dict[str, Any]:
    """Fields of TensorSpec for a video model: frames as grey levels 0 to 255, unless its
    preprocessing takes them otherwise.

    names: of the files that may describe the preprocessing, which is read as it is written:
    transformers' own video processors need torchvision. Raises ValueError, TypeError, KeyError or
    AttributeError where they say too little.
    """
    frames = getattr(config, "num_frames", None) or config.frames_per_clip
    size = getattr(config, "image_size", None) or config.crop_size
    fields: dict[str, Any] = {
        "format": "BTCSS",
        "shape": (frames, getattr(config, "num_channels", 3), *_pair(size)),
    }
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return fields
    written = json.loads(file.read_text())
    written = written.get("video_processor", written)
    vivit = str(written.get("image_processor_type", "")).startswith("Vivit")
    factor = written.get("rescale_factor", 1 / 127.5 if vivit else 1 / 255)
    scale = factor if written.get("do_rescale", True) else 1.0
    shift = 1.0 if written.get("offset", vivit) else 0.0  # ViViT maps grey levels to -1 to 1
    mean, std = [0.0], [1.0]
    if written.get("do_normalize", True):
        mean, std = written["image_mean"], written["image_std"]
    return {
        **fields,
        "mean": tuple((value + shift) / scale for value in mean),
        "std": tuple(value / scale for value in std),
    }


def _resize(processor: Any) -> dict[str, Any]:
    """Resize and crop; `size` is {height, width} or {shortest_edge}."""
    size = processor.size
    edge = size.shortest_edge
    crop_pct = getattr(processor, "crop_pct", None)
    if crop_pct is not None and edge:
        how: dict[str, Any] = (
            {"resize": "shortest_edge", "resize_to": int(edge / crop_pct)}
            if edge < CROPS_BELOW
            else {"resize": "stretch"}
        )
        return {**how, "height": edge, "width": edge}
    how = (
        {"resize": "shortest_edge", "resize_to": edge}
        if edge
        else {"resize": "stretch", "resize_to": (int(size.height), int(size.width))}
    )
    if getattr(processor, "do_center_crop", None):
        crop = processor.crop_size
        return {**how, "height": crop.height, "width": crop.width}
    return {**how, "height": edge or size.height, "width": edge or size.width}


def _unresized(processor: Any, config: Any) -> dict[str, Any]:
    """Without a resize: the size of the crop, or else of the model."""
    if getattr(processor, "do_center_crop", None):
        crop = processor.crop_size
        return {"resize": "none", "height": crop.height, "width": crop.width}
    height, width = _pair(getattr(config, "image_size", None))
    return {"resize": "none"} | ({"height": height, "width": width} if height and width else {})


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if size else (0, 0)
