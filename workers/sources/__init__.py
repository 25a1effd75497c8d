"""Sources: how a card's `source` becomes a torch module, and what the source knows of its input."""

from __future__ import annotations

import threading

from camserve.settings import Settings
from workers.repository import Entry
from workers.sources.export import load_export
from workers.sources.factory import load_factory
from workers.sources.loaded import Loaded
from workers.sources.transformers import fetch_transformers, load_transformers

__all__ = ["Loaded", "load"]

# Building a module is not thread-safe: transformers replaces torch's initialisers meanwhile, so
# that a module built beside it would keep unset weights. Downloads may run side by side.
_one_builder = threading.Lock()


def load(entry: Entry, settings: Settings) -> Loaded:
    """Load a model folder on the CPU. Raises InvalidCard, UnsupportedModel or ModelUnavailable."""
    match entry.kind:
        case "export":
            with _one_builder:
                return load_export(entry)
        case "factory":
            with _one_builder:
                return load_factory(entry, settings.factories)
        case _:  # the card allows only three kinds
            folder = fetch_transformers(entry)
            with _one_builder:
                return load_transformers(entry, folder)
