"""`transformers:NAME_OR_DIR`: a Hugging Face model of pictures or videos, from the hub or a folder.

Classifiers of pictures and videos, semantic segmentation, and for `task = "embedding"` the body.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camserve.errors import InvalidCard, ModelUnavailable, UnsupportedModel, one_line
from camserve.logs import adopt_loggers
from workers.repository import Entry
from workers.sources.hub import INDEX, PREPROCESSING, VIDEO_PREPROCESSING, WEIGHTS, fetch
from workers.sources.image_processors import picture_fields, video_fields
from workers.sources.libraries import hide_broken_torchvision
from workers.sources.loaded import Loaded
from workers.sources.weights import own_weights

__all__ = ["fetch_transformers", "load_transformers"]

_LOADERS = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSemanticSegmentation": "AutoModelForSemanticSegmentation",
    "ForVideoClassification": "AutoModelForVideoClassification",
}
_QUERIES = ("ForUniversalSegmentation", "ForInstanceSegmentation", "ForSegmentation", "Detection")


def fetch_transformers(entry: Entry) -> Path:
    """The folder with the model's files: beside the card, or from the hub. May take minutes."""
    local = entry.path(entry.reference)
    if local.is_dir():
        return local
    _library(entry)
    return fetch(
        entry,
        entry.reference,
        f"put the files of {entry.reference!r} into the folder files/ beside the card and write "
        'there: source = "transformers:files"',
    )


def load_transformers(entry: Entry, folder: Path) -> Loaded:
    """Load model, labels and preprocessing. Weights come as safetensors only, never a pickle."""
    transformers = _library(entry)
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise UnsupportedModel(
            f"model {entry.name!r}: {entry.reference!r} has no {WEIGHTS}; camserve never opens "
            "pickled weights such as pytorch_model.bin: load the model with transformers and "
            "write it again with save_pretrained"
        )
    module = _model(entry, folder, transformers)
    try:
        if _is_video(module.config):
            fields = video_fields(folder, (*PREPROCESSING, VIDEO_PREPROCESSING), module.config)
        else:
            processor = _image_processor(entry, folder, transformers)
            fields = picture_fields(processor, module.config)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise InvalidCard(
            f"model {entry.name!r}: its preprocessing is of a kind that camserve does not know "
            f"({error}): write all of [input] into the card, and remove the "
            "preprocessor_config.json from a copy of the folder"
        ) from error
    return Loaded(module, fields, () if entry.card.task == "embedding" else _labels(module.config))


def _model(entry: Entry, folder: Path, transformers: Any) -> Any:
    """The model of the kind that its configuration names; its body alone for an embedding."""
    known = {"trust_remote_code": False, "local_files_only": True}
    embedding = entry.card.task == "embedding"
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), **known)
        loader = getattr(transformers, _loader(entry, config))
        module, unset = _from_pretrained(loader, folder, config, **known)
        if embedding and unset and all(".pooler." in f".{name}" for name in unset):
            # a body that was saved without its pooling layer: do without
            known["add_pooling_layer"] = False
            module, unset = _from_pretrained(loader, folder, config, **known)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ModelUnavailable(f"model {entry.name!r}: {one_line(error)}") from error
    if unset:
        # transformers would fill them with random numbers: maps of noise, and no error
        raise UnsupportedModel(
            f"model {entry.name!r}: the weights lack {unset[0]!r} and {len(unset) - 1} more: is it "
            "a backbone without a trained classifier? Give a model that was fine-tuned, or write "
            'task = "embedding" into the card to explain the backbone itself'
        )
    if embedding:
        if not module.main_input_name.startswith("pixel_values"):
            raise UnsupportedModel(
                f"model {entry.name!r}: {type(module).__name__} takes more than a picture: give "
                "its vision model alone (for CLIP: CLIPVisionModel, saved with save_pretrained)"
            )
        module.register_forward_hook(_embedding)
    own_weights(module)
    return module


def _loader(entry: Entry, config: Any) -> str:
    """The name of the class of transformers that loads what the configuration says."""
    if entry.card.task == "embedding":
        return "AutoModel"
    named = next(iter(config.architectures or ()), "")
    if named.endswith(_QUERIES):
        raise UnsupportedModel(
            f"model {entry.name!r}: a {named} answers with boxes or masks of queries, which are no "
            "scores of classes: give a model of semantic segmentation with logits for each pixel, "
            "such as SegformerForSemanticSegmentation"
        )
    loaders = (loader for part, loader in _LOADERS.items() if part in named)
    return next(loaders, "AutoModelForImageClassification")


def _from_pretrained(loader: Any, folder: Path, config: Any, **known: Any) -> tuple[Any, list[str]]:
    """The model, and the names of weights that the files lack."""
    module, report = loader.from_pretrained(
        str(folder),
        config=config,
        use_safetensors=True,
        dtype=torch.float32,  # half precision on disk is no reason to compute in it
        output_loading_info=True,
        **known,
    )
    return module, sorted(report["missing_keys"])


def _embedding(_module: Any, _inputs: Any, output: Any) -> Tensor:
    """(N, features): the pooled output where the model has one, else the mean over positions."""
    pooled = output.get("pooler_output")
    if pooled is None:
        features = output["last_hidden_state"]
        pooled = features.mean(1) if features.ndim == 3 else features.flatten(2).mean(2)
    return pooled.flatten(1)  # type: ignore[no-any-return]


def _is_video(config: Any) -> bool:
    return bool(getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None))


def _library(entry: Entry) -> Any:
    hide_broken_torchvision()
    try:
        import transformers  # noqa: PLC0415 - seconds to import, and optional
    except ImportError as error:
        raise ModelUnavailable(
            f"model {entry.name!r} needs the package transformers: pip install 'camserve[worker]'"
        ) from error
    library: Any = transformers
    library.utils.logging.disable_progress_bar()
    adopt_loggers()
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
            f"model {entry.name!r}: its preprocessing cannot be read: {one_line(error)}"
        ) from error


def _labels(config: Any) -> tuple[str, ...]:
    names = getattr(config, "id2label", None) or {}
    labels = tuple(str(names[index]) for index in sorted(names))
    # transformers writes LABEL_0, LABEL_1, ... where the author gave no names
    return () if all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels
