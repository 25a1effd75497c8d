"""`torchvision:NAME`: a model of torchvision, with its published weights or those of a file."""

from __future__ import annotations

import logging
import urllib.request
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from camserve.errors import InvalidCard, ModelUnavailable, UnsupportedModel, near_names
from workers.repository import Entry
from workers.sources.libraries import require
from workers.sources.loaded import Loaded
from workers.sources.weights import load_weights, never_unpickle

__all__ = ["fetch_torchvision", "input_fields", "load_torchvision"]

logger = logging.getLogger(__name__)

QUESTION_TIMEOUT_S = 10.0
FRAMES = 16
"""Of the clips that torchvision's video models are tried with; the others take any number."""
_FIXED_FRAMES = ("torchvision.models.video.mvit",)
_OURS = ("weights_backbone", "progress")
_REFUSED = {
    "torchvision.models.detection": "it is a detector: its boxes are not scores of one input",
    "torchvision.models.optical_flow": "it compares two pictures",
    "torchvision.models.quantization": "it is quantised: rounding has no gradient",
}


def fetch_torchvision(entry: Entry) -> None:
    """Download the published weights, once, into torch hub's folder. May take minutes.

    Raises InvalidCard for an unknown name, ModelUnavailable without a network.
    """
    models = require(entry, "torchvision").models
    published = _published(entry, models)
    if entry.card.weights or published is None:
        return
    url = published.url
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    logger.info("model %s: fetching %s", entry.name, url)
    try:
        # a quick question first: torch's download waits for an answer without a limit
        question = urllib.request.Request(url, method="HEAD")  # noqa: S310 - torchvision's URL
        with urllib.request.urlopen(question, timeout=QUESTION_TIMEOUT_S):  # noqa: S310
            pass
        digest = torch.hub.HASH_REGEX.search(target.name)
        prefix = digest.group(1) if digest else None
        torch.hub.download_url_to_file(url, str(target), prefix, progress=False)
    except (OSError, RuntimeError) as error:  # the latter for another hash than the name says
        raise ModelUnavailable(
            f"model {entry.name!r}: its weights are fetched from {url} on first use, and that "
            f"failed ({type(error).__name__}: {error}). Connect the worker to the internet, or "
            f"copy the file to {target}, or give a safetensors file beside the card: "
            'weights = "model.safetensors"'
        ) from error


def load_torchvision(entry: Entry) -> Loaded:
    """Build the model, with the weights that `fetch_torchvision` brought or those of the card."""
    models = require(entry, "torchvision").models
    published = _published(entry, models)
    arguments = {name: value for name, value in entry.card.arguments.items() if name != "weights"}
    if ours := [name for name in _OURS if name in arguments]:
        raise InvalidCard(f"model {entry.name!r}: [arguments] may not give {ours[0]!r}")
    builder = models.get_model_builder(entry.reference)
    if builder.__module__.startswith("torchvision.models.segmentation"):
        arguments["weights_backbone"] = None  # else it would download another model's
    if published is None and not entry.card.weights:
        raise InvalidCard(
            f"model {entry.name!r}: torchvision publishes no weights of {entry.reference!r}: give "
            "a safetensors file, `weights = ...`"
        )
    try:
        with never_unpickle(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of initial weights, replaced below
            module = builder(weights=None if entry.card.weights else published, **arguments)
    except Exception as error:
        raise ModelUnavailable(
            f"model {entry.name!r}: torchvision cannot build {entry.reference!r} with the card's "
            f"[arguments] ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if entry.card.weights:
        load_weights(module, entry, entry.card.weights)
    if published is None:
        return Loaded(module)
    labels = tuple(map(str, published.meta.get("categories", ())))
    own_head = arguments.get("num_classes", len(labels)) != len(labels)
    return Loaded(module, input_fields(published, builder), () if own_head else labels)


def _published(entry: Entry, models: Any) -> Any | None:
    """The member of the model's weights enum that the card means; None if there is none."""
    name = entry.reference
    if name not in models.list_models():
        near = near_names(name, models.list_models())
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InvalidCard(f"model {entry.name!r}: torchvision has no model {name!r}{hint}")
    builder = models.get_model_builder(name)
    for module, reason in _REFUSED.items():
        if builder.__module__.startswith(module):
            raise UnsupportedModel(
                f"model {entry.name!r}: Grad-CAM cannot explain torchvision's {name!r}: {reason}; "
                "take a model of classification, segmentation or video"
            )
    known = models.get_model_weights(name)
    asked = entry.card.arguments.get("weights", "DEFAULT")
    member = getattr(known, "__members__", {}).get(str(asked).rpartition(".")[2])
    if member is None and (asked != "DEFAULT" or len(known)):
        raise InvalidCard(
            f"model {entry.name!r}: torchvision's {name!r} has no weights {asked!r}; there are "
            f"{', '.join(item.name for item in known)}"
        )
    return member


def input_fields(published: Any, builder: Any) -> dict[str, Any]:
    """Fields of PictureSpec, or for a video of TensorSpec, that do what the preset does.

    A picture for segmentation is not cropped by torchvision, which takes any size: here it is, to
    a square of the preset's size.
    """
    preset = published.transforms()
    if hasattr(preset, "crop_size") and len(preset.crop_size) == 2:
        height, width = preset.crop_size
        fixed = builder.__module__.startswith(_FIXED_FRAMES)
        return {
            "format": "BCTSS",
            "shape": (3, FRAMES if fixed else 0, height, width),
            "probe": (3, FRAMES, height, width),
            # of frames as grey levels, 0 to 255
            "mean": tuple(255 * mean for mean in preset.mean),
            "std": tuple(255 * std for std in preset.std),
        }
    (edge,) = preset.resize_size
    (size,) = getattr(preset, "crop_size", preset.resize_size)
    return {
        "height": size,
        "width": size,
        "resize": "shortest_edge",
        "resize_to": edge,
        "crop_rounding": "torchvision",
        "filter": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }
