"""What is measured of batches, against the standard library's own medians."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.service_times import OF_LATE, REMEMBERED, Measured

TIMES = st.lists(st.floats(0.1, 1e5), min_size=1, max_size=3 * REMEMBERED)


@given(TIMES, TIMES)
def test_medians_of_the_last_hundred_of_each_kind(
    explained: list[float], predicted: list[float]
) -> None:
    measured = Measured()
    for took_ms in explained:
        measured.learn("m", "explain", took_ms)
    assert measured.medians()["m"].predict is None
    for took_ms in predicted:
        measured.learn("m", "predict", took_ms)
    found = measured.medians()["m"]
    assert found.explain == pytest.approx(statistics.median(explained[-REMEMBERED:]), abs=1e-3)
    assert found.predict == pytest.approx(statistics.median(predicted[-REMEMBERED:]), abs=1e-3)


def test_models_apart_and_none_measured() -> None:
    measured = Measured()
    assert measured.medians() == {}
    measured.learn("m", "explain", 10)
    measured.learn("m", "predict", 20)
    assert set(measured.medians()) == {"m"}


@given(TIMES)
def test_the_longest_of_late(took_ms: list[float]) -> None:
    measured = Measured()
    assert measured.longest_ms("m", "explain") == float("inf")
    for number, one in enumerate(took_ms):
        measured.learn("m", "explain", one)
        measured.learn("other", "explain", 1e6)
        measured.learn("m", "predict", 1e6)
        latest = took_ms[max(number + 1 - OF_LATE, 0) : number + 1]
        assert measured.longest_ms("m", "explain") == max(latest)
