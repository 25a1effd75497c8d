"""What the introspection of a model found: its layers, which were chosen, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LayerReport", "ModelReport"]


@dataclass(frozen=True)
class LayerReport:
    """One module's output. `shape` includes the batch; `grid` is the size of its map, if any.

    `layout` has one letter per dimension: B batch, C channel, S space, T time or tokens,
    U unspecified. `gradient_reach` is the share of positions that the score's gradient reaches.
    """

    name: str
    shape: tuple[int, ...]
    layout: str
    grid: tuple[int, ...] | None
    prefix_tokens: int
    gradient_reach: float | None
    candidate: bool
    reason: str


@dataclass(frozen=True)
class ModelReport:
    """The model as one probe forward showed it; `layers` are in execution order.

    `output_shape` is without the batch. `feature_layer` is None where no layer can be explained.
    """

    output_shape: tuple[int, ...]
    classes: int | None
    feature_layer: str | None
    feature_reason: str
    reduction_layer: str
    reduction_reason: str
    layers: tuple[LayerReport, ...]
    ranking: tuple[str, ...] = field(default=(), repr=False)

    def candidates(self) -> list[str]:
        """Names of the layers that can be explained, best first."""
        return list(self.ranking)
