"""Files of the Hugging Face hub: fetched once, then used from the cache without a network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from camserve.errors import InvalidCard, ModelUnavailable, UnsupportedModel
from camserve.logs import adopt_loggers
from workers.repository import Entry

__all__ = ["INDEX", "PREPROCESSING", "VIDEO_PREPROCESSING", "WEIGHTS", "fetch"]

logger = logging.getLogger(__name__)

HUB_TIMEOUT_S = 10.0
CONFIG = "config.json"
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
VIDEO_PREPROCESSING = "video_preprocessor_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights that are split into several files


def fetch(entry: Entry, name: str, without: str) -> Path:
    """The folder with the files of the model `name`; what the cache lacks is downloaded first.

    Weights come last: where they are, everything is, and the hub is not asked any more.
    without: what an operator without a network can do instead.
    Raises InvalidCard (no such model), UnsupportedModel (no safetensors), ModelUnavailable.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - comes with transformers and timm
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    adopt_loggers()
    folder = _cached(name)
    if folder is not None:
        return folder
    logger.info("model %s: fetching %s from the Hugging Face hub", entry.name, name)
    try:
        for file in _wanted(entry, name):
            folder = Path(hf_hub_download(name, file)).parent
            if file == INDEX:
                for shard in _shards(folder):
                    hf_hub_download(name, shard)
    except GatedRepoError as error:
        raise ModelUnavailable(
            f"model {entry.name!r}: {name!r} is gated on the hub: accept its terms there, and set "
            "HF_TOKEN for the worker"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InvalidCard(
            f"model {entry.name!r}: there is no folder {name!r} beside the card, and the hub has "
            f"no model {name!r} (for a private one, set HF_TOKEN for the worker)"
        ) from error
    except (UnsupportedModel, InvalidCard):
        raise
    except Exception as error:  # the clients below raise errors of many families
        raise _unreachable(entry, error, without) from error
    assert folder is not None  # noqa: S101 - config.json is always wanted
    return folder


def _wanted(entry: Entry, name: str) -> Iterator[str]:
    """The files to download, weights last. One quick question first: it fails at once, with the
    way out, where a download would be tried again for a minute."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    info = HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
    there = {sibling.rfilename for sibling in info.siblings or ()}
    weights = next((name for name in (WEIGHTS, INDEX) if name in there), None)
    if CONFIG not in there or weights is None:
        raise UnsupportedModel(
            f"model {entry.name!r}: {name!r} on the hub has no {CONFIG} with {WEIGHTS}, and "
            "camserve never opens pickled weights; load it with its own library, write it again "
            "as safetensors (transformers: save_pretrained), and give that"
        )
    yield CONFIG
    yield from (name for name in (*PREPROCESSING, VIDEO_PREPROCESSING) if name in there)
    yield weights


def _cached(name: str) -> Path | None:
    """The folder of a complete download, or None."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        config = try_to_load_from_cache(name, CONFIG)
    except HFValidationError:  # not even a name
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    if (folder / WEIGHTS).is_file():
        return folder
    complete = (folder / INDEX).is_file() and all((folder / s).is_file() for s in _shards(folder))
    return folder if complete else None


def _shards(folder: Path) -> list[str]:
    return sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))


def _unreachable(entry: Entry, error: Exception, without: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"model {entry.name!r}: its weights are fetched from the Hugging Face hub on first use, "
        f"and the hub cannot be reached ({type(error).__name__}). Connect the worker to the "
        f"internet, or set HF_ENDPOINT to a mirror, or {without}"
    )
