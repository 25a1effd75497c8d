"""The classes of an output, best first, against formulas worked out otherwise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.rankings import check_top, ranking
from camserve.contracts.cards import ResolvedCard
from camserve.contracts.requests import PredictionRequest
from camserve.errors import InvalidRequest
from tests.app.front import CARD

NUMBERS = st.floats(-80, 80, width=32)
SCORES = arrays.arrays(np.float32, st.integers(2, 12), elements=NUMBERS)


def card(**fields: Any) -> ResolvedCard:
    return CARD.model_copy(update=fields)


@given(SCORES)
def test_a_softmax_and_its_order(scores: np.ndarray) -> None:
    found = ranking(scores, "C", card(), len(scores))
    assert [one.class_index for one in found] == sorted(
        range(len(scores)), key=lambda c: (-float(scores[c]), c)
    )
    for one in found:
        assert one.score == float(scores[one.class_index])
        # p = 1 / sum over j of exp(x_j - x_i), term by term with correctly rounded sums
        odds = math.fsum(math.exp(float(other) - one.score) for other in scores)
        assert one.probability == pytest.approx(1 / odds, rel=1e-12)
        assert one.share is None
    assert math.fsum(one.probability or 0 for one in found) == pytest.approx(1)


@given(SCORES)
def test_sigmoids_of_a_multi_label_model(scores: np.ndarray) -> None:
    for one in ranking(scores, "C", card(task="multi-label"), len(scores)):
        odds = math.exp(float(scores[one.class_index]))
        assert one.probability == pytest.approx(odds / (1 + odds), rel=1e-12)


def test_large_scores_do_not_overflow() -> None:
    best, other = ranking(np.float32([999, 1000]), "C", card(), 2)
    assert best.probability == pytest.approx(1 / (1 + math.exp(-1)))
    assert other.probability == pytest.approx(1 / (1 + math.exp(1)))


def test_probabilities_stay_what_they_are() -> None:
    found = ranking(np.float32([0.25, 0.75]), "C", card(scores="probabilities"), 2)
    assert [(one.score, one.probability) for one in found] == [(0.75, 0.75), (0.25, 0.25)]


def test_a_single_score_has_no_softmax() -> None:
    (one,) = ranking(np.float32([3.0]), "C", card(), None)
    assert (one.score, one.probability) == (3.0, None)
    (one,) = ranking(np.float32([3.0]), "C", card(task="multi-label"), None)
    assert one.probability == pytest.approx(1 / (1 + math.exp(-3)))


def test_labels_and_the_default_number() -> None:
    found = ranking(np.arange(7, dtype=np.float32), "C", card(), None)
    assert [one.class_index for one in found] == [6, 5, 4, 3, 2]
    assert [one.class_label for one in found] == [None, None, "crane bird", "crane bird", "Crane"]


def test_what_is_not_finite_comes_last_and_is_null() -> None:
    scores = np.float32([np.nan, 1, -np.inf, 2])
    found = ranking(scores, "C", card(), 4)
    assert [one.class_index for one in found] == [3, 1, 2, 0]
    assert [one.score for one in found] == [2, 1, None, None]
    assert [one.probability for one in found] == [None] * 4
    masked = ranking(np.float32([0, -np.inf]), "C", card(), 2)  # a class that is ruled out
    assert [one.probability for one in masked] == [1, 0]


DENSE = arrays.arrays(np.float32, st.tuples(st.integers(2, 4), *[st.integers(1, 4)] * 2),
                      elements=NUMBERS)  # fmt: skip


@given(DENSE, st.sampled_from(["CSS", "SSC", "SCS"]))
def test_shares_of_a_segmentation(x: np.ndarray, labels: str) -> None:
    output = np.moveaxis(x, 0, labels.index("C"))
    found = ranking(output, labels, card(task="segmentation"), len(x))
    counts: dict[int, int] = {}
    for row, column in np.ndindex(x.shape[1:]):
        scores = x[:, row, column].tolist()
        best = scores.index(max(scores))
        counts[best] = counts.get(best, 0) + 1
    positions = x.shape[1] * x.shape[2]
    shares = {one.class_index: one.share for one in found}
    assert shares == {c: pytest.approx(n / positions) for c, n in counts.items()}
    assert list(shares) == sorted(counts, key=lambda c: (-counts[c], c))
    for one in found:
        total = math.fsum(x[one.class_index].ravel().tolist())
        assert one.score == pytest.approx(total, rel=1e-9, abs=1e-9)
        assert one.probability is None


def test_masks_of_one_class_and_of_several_at_once() -> None:
    x = np.float32([[[-1, 2], [3, 4]]])
    (one,) = ranking(x, "CSS", card(task="segmentation"), None)
    assert (one.class_index, one.share, one.score) == (0, 0.75, 8)
    (one,) = ranking(x[0], "SS", card(task="segmentation"), None)  # without a class dimension
    assert one.share == 0.75
    both = ranking(np.float32([[1, 1], [1, -1]]), "CT", card(task="multi-label"), None)
    assert [one.share for one in both] == [1, 0.5]
    ready = card(task="multi-label", scores="probabilities")
    (one,) = ranking(np.float32([[0.6, 0.4], [0.1, 0.5]]), "CT", ready, None)
    assert (one.class_index, one.share) == (0, 0.5)


TOPS = [(5, {}, None), (6, {}, "only 5 classes"), (2, {"classes": 1}, "only 1 class"),
        (1, {"task": "regression"}, "is a regression: leave it out"),
        (1, {"task": "embedding"}, "is an embedding: leave it out"),
        (None, {"task": "regression"}, None), (1000, {"classes": None}, None)]  # fmt: skip


@pytest.mark.parametrize(("top", "fields", "refusal"), TOPS)
def test_what_top_may_be(top: int | None, fields: dict[str, Any], refusal: str | None) -> None:
    request = PredictionRequest(top=top)
    if refusal is None:
        check_top(request, card(**fields))
        return
    with pytest.raises(InvalidRequest, match=refusal) as caught:
        check_top(request, card(**fields))
    assert caught.value.extensions["field"] == "top"
