"""Names of layers in requests, cards and answers."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, StringConstraints

from camserve.dimensions import FEATURE_FORMAT

__all__ = [
    "LAYER_HELP",
    "FeatureFormat",
    "LayerName",
    "Layers",
    "as_layers",
    "layer_names",
]

LayerName = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Several = Annotated[tuple[LayerName, ...], Field(min_length=1, max_length=8, fail_fast=True)]
Layers: TypeAlias = LayerName | Several
"""One layer, or a list of several whose maps are fused."""

LAYER_HELP = (
    "A module by its name; of one that returns several tensors, `name:path` takes one, as in "
    "`encoder:hidden_states.2`."
)

FeatureFormat = Annotated[str, StringConstraints(pattern=FEATURE_FORMAT)]
"""Dimension labels of a layer's output, and for tokens the grid that they are: `BTC:14x14`."""


def layer_names(layers: Layers | None) -> tuple[str, ...]:
    """All of them, in order; none for None."""
    if layers is None:
        return ()
    return (layers,) if isinstance(layers, str) else layers


def as_layers(names: tuple[str, ...]) -> Layers:
    """The inverse, as a client asked: a single name stands alone."""
    return names[0] if len(names) == 1 else names
