"""What the introspection of a model found: its layers, which were chosen, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LayerReport", "ModelReport"]


@dataclass(frozen=True)
class LayerReport:
    """One module's output. `shape` includes the batch; `grid` is the size of its map, if any.

    `format` has one letter per dimension: B batch, C channel, S space, T time or tokens, U
    unspecified. `rank` is its place among the candidates, from 1. `gradient_reach` is the share of
    positions that the score's gradient reaches, `gradient_energy` the sum of its squares as a
    share of the largest layer's.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    grid: tuple[int, ...] | None
    prefix_tokens: int
    gradient_reach: float | None
    gradient_energy: float | None
    rank: int | None
    reason: str

    @property
    def candidate(self) -> bool:
        """Whether the automatic choice would take it."""
        return self.rank is not None


@dataclass(frozen=True)
class ModelReport:
    """The model as one probe forward showed it; `layers` are in execution order.

    `output_shape` is without the batch, `output_format` with it. `classes`: of a score for each
    class, how many. `feature_layers` are empty where no layer can be explained.
    `ends_in_probabilities`: the output was at least 0 and summed to 1. `rows_are_independent`:
    an input's output is the same whatever else is in the batch; None if it takes one input only.
    """

    output_shape: tuple[int, ...]
    output_format: str
    classes: int | None
    ends_in_probabilities: bool
    rows_are_independent: bool | None
    feature_layers: tuple[str, ...]
    feature_reason: str
    reduction_layer: str
    reduction_reason: str
    layers: tuple[LayerReport, ...]
    ranking: tuple[str, ...] = field(default=(), repr=False)

    @property
    def feature_layer(self) -> str | None:
        """The first of the feature layers."""
        return self.feature_layers[0] if self.feature_layers else None

    def candidates(self) -> list[str]:
        """Names of the layers that can be explained, best first."""
        return list(self.ranking)
