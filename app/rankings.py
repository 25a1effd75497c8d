"""From a model's output for one input to the classes that it names, best first."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from camserve.contracts.cards import ResolvedCard
from camserve.contracts.predictions import ClassPrediction
from camserve.contracts.requests import DEFAULT_TOP, PredictionRequest
from camserve.errors import InvalidRequest

__all__ = ["check_top", "has_classes", "ranking"]


def has_classes(card: ResolvedCard) -> bool:
    """Whether the model's output is a score for each class."""
    return card.task not in ("regression", "embedding")


def check_top(request: PredictionRequest, card: ResolvedCard) -> None:
    """Raises InvalidRequest for a `top` that the model cannot give."""
    if request.top is None:
        return
    if not has_classes(card):
        article = "an" if card.task == "embedding" else "a"
        raise InvalidRequest(
            f"top counts classes, and model {card.name!r} is {article} {card.task}: leave it out",
            field="top",
        )
    if card.classes is not None and request.top > card.classes:
        raise InvalidRequest(
            f"top: the model has only {card.classes} class{'es' if card.classes > 1 else ''}",
            field="top",
            maximum=card.classes,
        )


def ranking(
    output: NDArray[np.float32], labels: str, card: ResolvedCard, top: int | None
) -> tuple[ClassPrediction, ...]:
    """The `top` best classes of one input.

    output: of the model, its dimensions labelled by `labels` (without B). By score, equal ones by
    their index, NaN last; of a dense output by the share of positions, those that have any.
    """
    x = np.moveaxis(output, labels.index("C"), 0) if "C" in labels else output[np.newaxis]
    limit = DEFAULT_TOP if top is None else top
    if x.ndim == 1:
        scores = x.astype(np.float64)
        probabilities = _probabilities(scores, card)
        order = np.argsort(-scores, kind="stable")[:limit]
        return tuple(_class(int(c), card, scores[c], probability=probabilities[c]) for c in order)
    shares = _shares(x, card)
    totals = x.reshape(len(x), -1).sum(1, dtype=np.float64)
    order = np.argsort(-shares, kind="stable")[:limit]
    return tuple(
        _class(int(c), card, totals[c], share=float(shares[c])) for c in order if shares[c] > 0
    )


def _class(
    index: int,
    card: ResolvedCard,
    score: np.float64,
    *,
    probability: np.float64 | None = None,
    share: float | None = None,
) -> ClassPrediction:
    return ClassPrediction(
        class_index=index,
        class_label=card.label(index),
        score=_finite(score),
        probability=None if probability is None else _finite(probability),
        share=share,
    )


def _finite(value: np.float64) -> float | None:
    return float(value) if math.isfinite(value) else None


def _probabilities(scores: NDArray[np.float64], card: ResolvedCard) -> NDArray[np.float64]:
    """Of each class; NaN where there is none: a softmax of a single score says nothing."""
    if card.scores == "probabilities":
        return scores
    with np.errstate(over="ignore", invalid="ignore"):  # of infinite scores
        if card.task == "multi-label":
            return 1 / (1 + np.exp(-scores))
        if len(scores) == 1:
            return np.full_like(scores, np.nan)
        exponentials: NDArray[np.float64] = np.exp(scores - scores.max())
        return exponentials / float(exponentials.sum())


def _shares(x: NDArray[np.float32], card: ResolvedCard) -> NDArray[np.float64]:
    """For each class of a dense output (C, *D), the share of positions predicted as it: whose best
    class it is; of a multi-label model or a single class, whose probability exceeds a half."""
    flat = x.reshape(len(x), -1)
    if card.task == "multi-label" or len(x) == 1:
        least = 0.5 if card.scores == "probabilities" else 0.0
        return np.asarray(np.count_nonzero(flat > least, axis=1) / flat.shape[1])
    best = np.where(np.isnan(flat), -np.inf, flat).argmax(0)
    positions: NDArray[np.int64] = np.bincount(best, minlength=len(x))
    return positions / flat.shape[1]
