"""`timm:NAME`: a model of timm, with weights from the hub or from a file beside the card."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

from camserve.errors import InvalidCard, ModelUnavailable, UnsupportedModel, near_names
from workers.repository import Entry
from workers.sources.hub import INDEX, WEIGHTS, fetch
from workers.sources.libraries import require
from workers.sources.loaded import Loaded
from workers.sources.weights import load_weights

__all__ = ["fetch_timm", "input_fields", "load_timm"]

_OURS = {  # arguments of timm.create_model that decide what is loaded from where
    "cache_dir", "checkpoint_path", "model_name", "pretrained", "pretrained_cfg",
    "pretrained_cfg_overlay", "scriptable", "exportable", "no_jit",
}  # fmt: skip


def fetch_timm(entry: Entry) -> Path | None:
    """The folder with the pretrained weights; None where the card names a file. May take minutes.

    Raises InvalidCard for an unknown name, with those that are near.
    """
    timm = require(entry, "timm")
    known = _configuration(entry, timm)
    if entry.card.weights:
        return None
    name = known.hf_hub_id
    if not name:
        raise UnsupportedModel(
            f"model {entry.name!r}: timm has no safetensors weights of {entry.reference!r} on the "
            "hub: give a file, `weights = ...`, or a name with a tag, as timm.list_pretrained()"
            " gives them"
        )
    return fetch(
        entry,
        name,
        f"download {WEIGHTS} of {name!r} into the folder beside the card and write there: "
        f'weights = "{WEIGHTS}"',
    )


def load_timm(entry: Entry, folder: Path | None) -> Loaded:
    """Build the model and load its weights: safetensors, never a pickle."""
    timm = require(entry, "timm")
    arguments = entry.card.arguments
    if ours := sorted(_OURS & set(arguments)):
        raise InvalidCard(
            f"model {entry.name!r}: [arguments] are those of the network, and {ours[0]!r} is "
            "camserve's to give; weights of your own go into the field `weights`"
        )
    known = _configuration(entry, timm)
    own_head = arguments.get("num_classes", known.num_classes) not in (known.num_classes, 0)
    if folder is not None and own_head:
        raise UnsupportedModel(
            f"model {entry.name!r}: with num_classes = {arguments['num_classes']} the classifier "
            "would have no trained weights: give those of your model, `weights = ...`"
        )
    try:
        module = timm.create_model(entry.reference, **arguments, **_weights_from(folder))
    except Exception as error:
        raise ModelUnavailable(
            f"model {entry.name!r}: timm cannot build {entry.reference!r} with the card's "
            f"[arguments] ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if entry.card.weights:
        load_weights(module, entry, entry.card.weights)
    size = arguments.get("img_size")
    given = {"input_size": (3, *_pair(size))} if size else {}
    config = timm.data.resolve_model_data_config(module, args=given)
    try:
        fields = input_fields(config, channels=arguments.get("in_chans", 3), model=entry.name)
    except InvalidCard:
        if not ({"height", "width"} <= entry.card.input.keys() or "shape" in entry.card.input):
            raise
        fields = {}  # the card says it
    return Loaded(module, fields, _labels(timm, module))


def _weights_from(folder: Path | None) -> dict[str, Any]:
    """As a file of timm's own configuration: so its own renaming of old weights is applied."""
    if folder is None:
        return {"pretrained": False}
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        raise ValueError(f"the weights are split over several files ({INDEX})")
    overlay = {"file": str(folder / WEIGHTS), "custom_load": False}
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _configuration(entry: Entry, timm: Any) -> Any:
    """timm's own of the name and its tag. Raises InvalidCard for one that it does not know."""
    if timm.is_model(entry.reference):
        with contextlib.suppress(RuntimeError):  # a tag that is none
            return timm.get_pretrained_cfg(entry.reference)
    base, _, tag = entry.reference.partition(".")
    tags = timm.list_pretrained(f"{base}.*") if tag and timm.is_model(base) else []
    near = tags[:5] or near_names(entry.reference, timm.list_models())
    hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() gives all"
    raise InvalidCard(f"model {entry.name!r}: timm has no model {entry.reference!r}{hint}")


def input_fields(config: dict[str, Any], *, channels: int, model: str) -> dict[str, Any]:
    """Fields of PictureSpec that give what timm's own evaluation transform gives.

    config: of timm.data.resolve_model_data_config. Raises InvalidCard for a transform that camserve
    does not have.
    """
    height, width = config["input_size"][-2:]
    if channels not in (1, 3):
        return {"format": "BCSS", "shape": [channels, height, width]}
    tall, wide = (math.floor(size / config["crop_pct"]) for size in (height, width))
    fields = {
        "height": height,
        "width": width,
        "filter": config["interpolation"],
        "crop_rounding": "torchvision",
    }
    if config["crop_mode"] == "squash":
        fields |= {"resize": "stretch", "resize_to": (tall, wide)}
    elif config["crop_mode"] == "center" and tall == wide:
        fields |= {"resize": "shortest_edge", "resize_to": tall}
    else:
        raise InvalidCard(
            f"model {model!r}: timm's preprocessing of it (crop_mode {config['crop_mode']!r}, "
            f"{height} x {width}) has no counterpart in camserve: write [input] into the card, "
            "height and width with the resize that comes nearest, or format and shape for tensors"
        )
    if channels == 1:
        return {**fields, "colors": "L"}  # which normalisation it was trained with, timm cannot say
    return {**fields, "mean": tuple(config["mean"]), "std": tuple(config["std"])}


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _labels(timm: Any, module: Any) -> tuple[str, ...]:
    """The names of ImageNet's classes, which come with timm, where the number of classes fits."""
    config = module.pretrained_cfg
    if module.num_classes != config.get("num_classes"):
        return ()
    if names := config.get("label_names"):
        return tuple(map(str, names))
    subset = timm.data.infer_imagenet_subset(config)
    return tuple(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else ()
