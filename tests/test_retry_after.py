"""`Retry-After` of others: seconds or a date, on a machine of any time zone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from camserve.retry_after import seconds_of


@pytest.fixture(params=["UTC", "Asia/Tokyo"])
def _time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as here:
        here.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


def test_seconds() -> None:
    assert seconds_of("120") == seconds_of(" 120 ") == 120
    assert seconds_of("0") == 0
    assert seconds_of("9" * 5000) == 999_999_999


@pytest.mark.usefixtures("_time_zone")
@pytest.mark.parametrize("seconds", [600, -600])
def test_a_date(seconds: int) -> None:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    for text in (format_datetime(until, usegmt=True), format_datetime(until.replace(tzinfo=None))):
        found = seconds_of(text)  # GMT, and -0000
        assert found is not None
        assert found == pytest.approx(seconds, abs=60)


FAR = "9" * 20
NEITHER = (
    *("", "soon", "-5", "1.5", "\u0661\u0662", "\u00b2", "Mon"),
    f"Mon, 01 Jan 2024 00:00:00 +{FAR}",
    f"Mon, 01 Jan 2024 {FAR}:00:00 GMT",
)


@pytest.mark.parametrize("text", NEITHER)
def test_what_is_neither(text: str) -> None:
    assert seconds_of(text) is None
