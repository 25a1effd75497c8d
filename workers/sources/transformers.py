"""`transformers:NAME_OR_DIR`: a Hugging Face image classifier, from the hub or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from camserve.errors import InvalidCard, ModelUnavailable, UnsupportedModel
from workers.repository import Entry
from workers.sources.hub import INDEX, PREPROCESSING, WEIGHTS, fetch
from workers.sources.loaded import Loaded

__all__ = ["fetch_transformers", "input_fields", "load_transformers"]

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers
CROPS_BELOW = 384  # ConvNeXt crops smaller inputs than this, and stretches the others


def fetch_transformers(entry: Entry) -> Path:
    """The folder with the model's files: beside the card, or from the hub. May take minutes."""
    local = entry.path(entry.reference)
    if local.is_dir():
        return local
    _library(entry)
    return fetch(entry)


def load_transformers(entry: Entry, folder: Path) -> Loaded:
    """Load model, labels and preprocessing. Weights come as safetensors only, never a pickle."""
    transformers = _library(entry)
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} has no {WEIGHTS}; camserve never opens "
            "pickled weights such as pytorch_model.bin: load the model with transformers and "
            "write it again with save_pretrained"
        )
    try:
        module, report = transformers.AutoModelForImageClassification.from_pretrained(
            str(folder),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,  # half precision on disk is no reason to compute in it
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"model {entry.name!r}: {_first_sentence(error)}") from error
    if unset := sorted(report["missing_keys"]):
        # transformers would fill them with random numbers: maps of noise, and no error
        raise UnsupportedModel(
            f"model {entry.name!r}: the weights lack {unset[0]!r} and {len(unset) - 1} more: is it "
            "a backbone without a trained classifier? Give a model that was fine-tuned"
        )
    processor = _image_processor(entry, folder, transformers)
    try:
        fields = input_fields(processor, module.config)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InvalidCard(
            f"model {entry.name!r}: its preprocessing ({type(processor).__name__}) is of a kind "
            "that camserve does not know: write all of [input] into the card, and remove the "
            "preprocessor_config.json from a copy of the folder"
        ) from error
    return Loaded(module, fields, _labels(module.config))


def _library(entry: Entry) -> Any:
    try:
        import transformers  # noqa: PLC0415 - seconds to import, and optional
    except ImportError as error:
        raise ModelUnavailable(
            f"model {entry.name!r} needs the package transformers: pip install 'camserve[worker]'"
        ) from error
    library: Any = transformers
    library.utils.logging.disable_progress_bar()
    return library


def _image_processor(entry: Entry, folder: Path, transformers: Any) -> Any | None:
    """The model's own preprocessing; None if it ships none (then the card must say it).

    One that is there and cannot be read is an error: a guess would give wrong maps in silence.
    """
    if not any((folder / name).is_file() for name in PREPROCESSING):
        return None
    try:
        # the Pillow backend needs no torchvision, and is what the front end's resize follows
        return transformers.AutoImageProcessor.from_pretrained(
            str(folder), backend="pil", local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"model {entry.name!r}: its preprocessing cannot be read: {_first_sentence(error)}"
        ) from error


def input_fields(processor: Any | None, config: Any) -> dict[str, Any]:
    """Fields of InputSpec from an image processor of transformers and a model configuration."""
    fields: dict[str, Any] = {}
    if getattr(config, "num_channels", 3) == 1:
        fields["colors"] = "L"
    if processor is None:
        height, width = _pair(getattr(config, "image_size", None))
        return fields | ({"height": height, "width": width} if height and width else {})
    if processor.do_resize:
        fields |= _resize(processor)
        fields["filter"] = _FILTERS[int(processor.resample)]
    else:
        fields |= _unresized(processor, config)
    fields["scale"] = processor.rescale_factor if processor.do_rescale else 1.0
    if processor.do_normalize:
        fields |= {"mean": processor.image_mean, "std": processor.image_std}
    return fields


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


def _labels(config: Any) -> tuple[str, ...]:
    names = getattr(config, "id2label", None) or {}
    labels = tuple(str(names[index]) for index in sorted(names))
    # transformers writes LABEL_0, LABEL_1, ... where the author gave no names
    return () if all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
