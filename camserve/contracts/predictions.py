"""The answer to a prediction: the best classes of each input, or the numbers of its output."""

from __future__ import annotations

from pydantic import Field

from camserve.contracts.base import Message
from camserve.contracts.explanations import Computation, Numbers, Timings
from camserve.contracts.jobs import Diagnostic

__all__ = ["ClassPrediction", "InputPrediction", "Prediction"]


class ClassPrediction(Message):
    """One class, as the model sees it in one input."""

    class_index: int = Field(description="Counted from 0.")
    class_label: str | None = Field(description="Null where the model's card has no labels.")
    score: float | None = Field(
        description="The model's output for the class, as an explanation of the reduction layer "
        "`output` reports it: of a dense output the sum over all positions. Null if it is not "
        "finite."
    )
    probability: float | None = Field(
        description="Softmax of the scores of a classification, sigmoid of a multi-label one, and "
        "the score itself where the model ends in probabilities. Null of a dense output, and of a "
        "single score without a sigmoid."
    )
    share: float | None = Field(
        description="Of a dense output (segmentation): the share of positions that are predicted "
        "as the class. Null of any other."
    )


class InputPrediction(Message):
    """What the model says of one input."""

    input: int
    input_name: str | None
    output_shape: tuple[int, ...] = Field(description="Of the model's output, without batch.")
    predictions: tuple[ClassPrediction, ...] = Field(
        description="The best classes, best first: by score; of a dense output by share, and only "
        "those that are there. None of a regression or an embedding."
    )
    values: Numbers | None = Field(
        description="Of a regression or an embedding, the model's output; null of classes."
    )
    diagnostics: tuple[Diagnostic, ...] = Field(
        (), description="`nonfinite`, or `nonfinite_retried` in half precision."
    )


class Prediction(Message):
    """What the model says of each input."""

    model: str
    model_version: str
    results: tuple[InputPrediction, ...] = Field(description="One for each input, in order.")
    timings_ms: Timings
    computation: Computation
