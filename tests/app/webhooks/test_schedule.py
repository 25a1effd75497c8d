"""Back-off: four times as long each, never together, within a life that is known before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.webhooks.schedule import Schedule

DEFAULT = Schedule(attempts=8, first_s=5, timeout_s=15, silence_s=30)


def test_waits_grow() -> None:
    waits = [DEFAULT.delay_s(attempts) for attempts in range(1, 8)]
    expected = [5, 20, 80, 320, 1280, 5120, 20480]
    for wait, base in zip(waits, expected, strict=True):
        assert wait is not None
        assert 0.8 * base <= wait <= 1.2 * base


def test_the_last_attempt_is_the_last() -> None:
    assert DEFAULT.delay_s(7) is not None
    assert DEFAULT.delay_s(8) is None
    assert Schedule(1, 5, 1, 1).delay_s(1) is None


def test_no_two_come_back_together() -> None:
    assert len({DEFAULT.delay_s(1) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("wish_s", "least_s", "most_s"),
    [(None, 4, 6), (0, 4, 6), (-5, 4, 6), (100, 100, 100), (3600, 3600, 3600), (1e9, 3600, 3600)],
)
def test_what_a_receiver_wishes(wish_s: float | None, least_s: float, most_s: float) -> None:
    delay_s = DEFAULT.delay_s(1, wish_s)
    assert delay_s is not None
    assert least_s <= delay_s <= most_s


def test_no_wait_is_longer_than_six_hours() -> None:
    delay_s = Schedule(20, 5, 1, 1).delay_s(19)
    assert delay_s is not None
    assert delay_s <= 1.2 * 6 * 3600


@given(
    attempts=st.integers(1, 20),
    first_s=st.floats(0.001, 1e5),
    wishes=st.lists(st.floats(0, 1e6), min_size=20, max_size=20),
)
def test_its_life_outlasts_the_slowest_receiver(
    attempts: int, first_s: float, wishes: list[float]
) -> None:
    """Each attempt is begun at once and takes its whole lease, and each wish is granted."""
    schedule = Schedule(attempts, first_s, timeout_s=15, silence_s=30)
    elapsed_s, made = 0.0, 0
    while True:
        elapsed_s, made = elapsed_s + schedule.lease_s, made + 1
        delay_s = schedule.delay_s(made, wishes[made - 1])
        if delay_s is None:
            break
        elapsed_s += delay_s
    assert made == attempts
    assert elapsed_s <= schedule.life_s + 1e-6
