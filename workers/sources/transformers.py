"""`transformers:NAME_OR_DIR`: a Hugging Face image classifier, from the hub or a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from camserve.errors import InvalidCard, ModelUnavailable
from workers.repository import Entry
from workers.sources.loaded import Loaded

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["input_fields", "load_transformers"]

HUB_TIMEOUT_S = 10.0
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers


def load_transformers(entry: Entry) -> Loaded:
    """Load model, labels and preprocessing. Weights come as safetensors only, never a pickle."""
    try:
        import transformers  # noqa: PLC0415 - seconds to import, and optional
    except ImportError as error:
        raise ModelUnavailable(
            f"model {entry.name!r} needs the package transformers: pip install 'camserve[worker]'"
        ) from error
    local = entry.path(entry.reference)
    where = str(local) if local.is_dir() else entry.reference
    if not local.is_dir():
        _ask_the_hub(entry)
    try:
        module = transformers.AutoModelForImageClassification.from_pretrained(
            where, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"model {entry.name!r}: {_first_sentence(error)}") from error
    processor = _image_processor(where, transformers)
    return Loaded(module, input_fields(processor, module.config), _labels(module.config))


def _ask_the_hub(entry: Entry) -> None:
    """Fail at once, with the way out, where transformers would retry for half a minute."""
    import huggingface_hub  # noqa: PLC0415 - comes with transformers
    from huggingface_hub.errors import (  # noqa: PLC0415
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if isinstance(huggingface_hub.try_to_load_from_cache(entry.reference, "config.json"), str):
        return
    try:
        huggingface_hub.HfApi().model_info(entry.reference, timeout=HUB_TIMEOUT_S)
    except RepositoryNotFoundError as error:
        raise InvalidCard(
            f"model {entry.name!r}: the hub has no model {entry.reference!r}"
        ) from error
    except (OfflineModeIsEnabled, OSError, Exception) as error:
        raise ModelUnavailable(
            f"model {entry.name!r}: its weights are fetched from the Hugging Face hub on first "
            f"use, and the hub cannot be reached ({type(error).__name__}). Connect the worker to "
            "the internet, or set HF_ENDPOINT to a mirror, or put the files of "
            f"{entry.reference!r} into the folder files/ beside the card and write there: "
            f'source = "transformers:files"'
        ) from error


def _image_processor(where: str, transformers: ModuleType) -> Any | None:
    """The model's own preprocessing; None if it ships none (then the card must say it)."""
    try:
        # the Pillow backend needs no torchvision, and is what the front end's resize follows
        return transformers.AutoImageProcessor.from_pretrained(where, backend="pil")
    except (OSError, ValueError):
        return None


def input_fields(processor: Any | None, config: Any) -> dict[str, Any]:
    """Fields of InputSpec from an image processor of transformers and a model configuration."""
    fields: dict[str, Any] = {}
    if getattr(config, "num_channels", 3) == 1:
        fields["colors"] = "L"
    if processor is None:
        height, width = _pair(getattr(config, "image_size", None))
        return fields | ({"height": height, "width": width} if height and width else {})
    fields |= _resize(processor)
    fields["filter"] = _FILTERS[int(processor.resample)]
    fields["scale"] = processor.rescale_factor if processor.do_rescale else 1.0
    if processor.do_normalize:
        fields |= {"mean": processor.image_mean, "std": processor.image_std}
    return fields


def _resize(processor: Any) -> dict[str, Any]:
    """Resize and crop; `size` is {height, width} or {shortest_edge}."""
    size = processor.size
    edge = size.shortest_edge
    crop_pct = getattr(processor, "crop_pct", None)
    if crop_pct is not None and edge:  # ConvNeXt: crops below 384 pixels, stretches from there on
        how: dict[str, Any] = (
            {"resize": "shortest_edge", "resize_to": int(edge / crop_pct)}
            if edge < 384
            else {"resize": "stretch"}
        )
        return {**how, "height": edge, "width": edge}
    how = (
        {"resize": "shortest_edge", "resize_to": edge}
        if edge
        else {"resize": "stretch", "resize_to": (size.height, size.width)}
    )
    if getattr(processor, "do_center_crop", None):
        crop = processor.crop_size
        return {**how, "height": crop.height, "width": crop.width}
    return {**how, "height": edge or size.height, "width": edge or size.width}


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
