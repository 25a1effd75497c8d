"""Sources: how a card's `source` becomes a torch module, and what the source knows of its input."""

from __future__ import annotations

from camserve.settings import Settings
from workers.repository import Entry
from workers.sources.export import load_export
from workers.sources.factory import load_factory
from workers.sources.loaded import Loaded
from workers.sources.transformers import load_transformers

__all__ = ["Loaded", "load"]


def load(entry: Entry, settings: Settings) -> Loaded:
    """Load a model folder on the CPU. Raises InvalidCard, UnsupportedModel or ModelUnavailable."""
    match entry.kind:
        case "export":
            return load_export(entry)
        case "factory":
            return load_factory(entry, settings.factories)
        case _:  # the card allows only three kinds
            return load_transformers(entry)
