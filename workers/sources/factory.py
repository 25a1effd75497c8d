"""`factory:package.module:callable`: the operator's own Python, named in an allow-list."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from torch import nn

from camserve.errors import InvalidCard, ModelUnavailable
from workers.repository import Entry
from workers.sources.loaded import Loaded
from workers.sources.weights import load_weights

__all__ = ["load_factory"]


def load_factory(entry: Entry, allowed: Sequence[str]) -> Loaded:
    """Call an allowed factory with the card's arguments, then load its safetensors weights."""
    reference = entry.reference
    if reference not in allowed:
        # a card is data: it must not be able to name code that the operator did not choose
        raise InvalidCard(
            f"model {entry.name!r}: the factory {reference!r} is not allowed; "
            f"add it to CAMSERVE_FACTORIES"
        )
    module_name, _, attribute = reference.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # a module may raise anything while it is imported
        raise ModelUnavailable(
            f"model {entry.name!r}: the factory {reference!r} cannot be imported "
            f"({type(error).__name__}: {error})"
        ) from error
    try:
        module = factory(**entry.card.arguments)
    except Exception as error:
        raise ModelUnavailable(
            f"model {entry.name!r}: the factory {reference!r}, called with the card's "
            f"[arguments], raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise InvalidCard(f"model {entry.name!r}: {reference!r} did not return a torch.nn.Module")
    if entry.card.weights:
        load_weights(module, entry, entry.card.weights)
    return Loaded(module)
