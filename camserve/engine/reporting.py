"""From the probe and the choice of layers to the report on a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from camserve.dimensions import check_format
from camserve.engine.layer_rule import Choice
from camserve.engine.layout_reader import Refusal
from camserve.engine.recording import Probe, Recorded
from camserve.engine.reports import LayerReport, ModelReport
from camserve.engine.score_layout import class_dimension_first, letters_of_output
from camserve.errors import InvalidRequest

__all__ = ["Named", "OutputScores", "report_of"]

OutputScores = Literal["logits", "probabilities"]
"""What the model's output is."""

_CANDIDATE = "a map that the score's gradient reaches, but not the last one"


@dataclass(frozen=True)
class Named:
    """The layers that somebody chose, who knows the model, and what its output is."""

    feature_layers: tuple[str, ...] = ()
    reduction_layer: str | None = None
    output_format: str | None = None
    scores: OutputScores | None = None


def report_of(
    probe: Probe, choice: Choice, named: Named, *, rows_are_independent: bool | None
) -> ModelReport:
    """What is named goes before what was chosen.

    Raises InvalidRequest for an output format that does not fit.
    """
    letters = _output_letters(probe, named.output_format)
    scores = class_dimension_first(probe.output, letters)
    automatic = (choice.layer,) if choice.layer else ()
    return ModelReport(
        output_shape=_without_batch(tuple(probe.output.shape), letters),
        output_format=letters,
        classes=scores.shape[1],
        ends_in_probabilities=named.scores == "probabilities"
        if named.scores
        else _are_probabilities(scores),
        rows_are_independent=rows_are_independent,
        feature_layers=named.feature_layers or automatic,
        feature_reason="it was given by name" if named.feature_layers else choice.reason,
        reduction_layer=named.reduction_layer or "output",
        reduction_reason="it was given by name"
        if named.reduction_layer
        else "it is the model's output",
        layers=_reports(probe.records, choice),
        ranking=choice.ranking,
    )


def _output_letters(probe: Probe, asked: str | None) -> str:
    shape = tuple(probe.output.shape)
    if asked is None:
        return letters_of_output(shape, probe.output_layout)
    letters = check_format(asked, "output_format")
    if len(letters) != len(shape) or "B" not in letters:
        raise InvalidRequest(
            f"output_format {letters!r} does not describe an output of {len(shape)} dimensions, B "
            f"among them: it is {shape} for one input",
            field="output_format",
        )
    return letters


def _without_batch(shape: tuple[int, ...], letters: str) -> tuple[int, ...]:
    return tuple(size for size, letter in zip(shape, letters, strict=True) if letter != "B")


def _are_probabilities(scores: Tensor) -> bool:
    """Whether each position of (N, C, *D) holds the probabilities of C >= 2 classes."""
    if scores.shape[1] < 2:
        return False
    sums = scores.double().sum(1)
    return bool((scores >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _reports(records: Sequence[Recorded], choice: Choice) -> tuple[LayerReport, ...]:
    most = max((record.energy or 0.0 for record in records), default=0.0)
    return tuple(_report(record, choice, most) for record in records)


def _report(record: Recorded, choice: Choice, most_energy: float) -> LayerReport:
    layout, energy = record.layout, record.energy
    ranked = record.name in choice.ranking
    chosen = record.name == choice.layer
    return LayerReport(
        name=record.name,
        shape=tuple(record.tensor.shape),
        format=layout.label if layout else _letters(record),
        grid=layout.grid if layout else None,
        prefix_tokens=layout.prefix_tokens if layout else 0,
        gradient_reach=record.reach,
        gradient_energy=energy / most_energy if energy is not None and most_energy else energy,
        rank=choice.ranking.index(record.name) + 1 if ranked else None,
        reason=choice.reason if chosen else choice.faults.get(record.name, _CANDIDATE),
    )


def _letters(record: Recorded) -> str:
    """Of a shape that is no map: U where nothing is known. The probe has a batch of 1."""
    shape = record.tensor.shape
    if isinstance(record.reading, Refusal) and record.reading.fallback:
        return record.reading.fallback.letters
    if not shape or shape[0] != 1:
        return "U" * len(shape)
    return "BC" if len(shape) == 2 else "B" + "U" * (len(shape) - 1)
