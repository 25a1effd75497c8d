"""Sources: how a card's `source` becomes a torch module, and what the source knows of its input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from camserve.settings import Settings
from workers.repository import Entry
from workers.sources.export import load_export
from workers.sources.factory import load_factory
from workers.sources.loaded import Loaded
from workers.sources.onnx import load_onnx
from workers.sources.timm import fetch_timm, load_timm
from workers.sources.torchvision import fetch_torchvision, load_torchvision
from workers.sources.transformers import fetch_transformers, load_transformers

__all__ = ["Loaded", "fetched", "load"]


def load(entry: Entry, settings: Settings) -> Loaded:
    """Load a model folder on the CPU. Raises InvalidCard, UnsupportedModel or ModelUnavailable."""
    return fetched(entry, settings)()


def fetched(entry: Entry, settings: Settings) -> Callable[[], Loaded]:
    """Download what the model needs; returns what builds it. Raises as `load`.

    Downloads may run side by side. Build one module at a time.
    """
    match entry.kind:
        case "export":
            build = partial(load_export, entry)
        case "onnx":
            build = partial(load_onnx, entry)
        case "timm":
            build = partial(load_timm, entry, fetch_timm(entry))
        case "torchvision":
            fetch_torchvision(entry)
            build = partial(load_torchvision, entry)
        case "transformers":
            build = partial(load_transformers, entry, fetch_transformers(entry))
        case _:  # the card allows no other kinds
            build = partial(load_factory, entry, settings.factories)
    return build
