"""What a process writes, in both formats: one line an event, whatever is in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest

from tests.logs.hostile import HOSTILE
from tests.service import ROOT

COUNTED = ("value", "raised", "message")
LINE = re.compile(r"\d\d:\d\d:\d\d (info|warning|error|critical) +\S.*")


def said(form: str) -> str:
    """All that the speaker writes to standard error."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.logs.speaker", form],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert process.stdout == b""
    return process.stderr.decode()


@pytest.fixture(scope="module")
def console() -> str:
    return said("console")


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    text = said("json")
    assert text.isascii()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def of(events: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [one for one in events if one["event"].startswith(event)]


def test_every_object_has_the_same_first_members(events: list[dict[str, Any]]) -> None:
    for event in events:
        assert list(event)[:3] == ["timestamp", "level", "event"]
        assert event["timestamp"].endswith("Z")
        assert datetime.fromisoformat(event["timestamp"]).utcoffset() is not None
        assert event["logger"]
        if event["event"] != "an event could not be written":
            assert (event["process"], event["worker"]) == ("speaker", "w1")


def test_fields_are_members(events: list[dict[str, Any]]) -> None:
    (one,) = of(events, "fields")
    assert (one["level"], one["logger"], one["request_id"]) == ("info", "tests.speaker", "r1")
    assert (one["job_id"], one["run_ms"], one["listed"]) == ("j1", 12.5, [1, "x"])
    assert (one["empty"], one["quoted"]) == ("", 'a b="c"')
    assert "request_id" not in of(events, "value")[0]
    assert not of(events, "too quiet")


def test_hostile_values_are_members(events: list[dict[str, Any]]) -> None:
    assert [one["text"] for one in of(events, "value")] == list(HOSTILE)
    assert [one["object"] for one in of(events, "value")] == list(HOSTILE)
    assert [one["event"] for one in of(events, "message")] == [f"message {t}" for t in HOSTILE]


def test_an_exception_is_a_member(events: list[dict[str, Any]]) -> None:
    raised = of(events, "raised")
    assert [one["exception"][0]["exc_value"] for one in raised] == list(HOSTILE)
    frame = raised[0]["exception"][0]["frames"][-1]
    assert frame["filename"].endswith("speaker.py")
    assert "locals" not in frame  # values of variables may be anything


def test_what_nobody_caught_and_what_warns_are_events(events: list[dict[str, Any]]) -> None:
    assert "a library warns" in of(events, "")[-2]["event"]
    assert events[-1]["exception"][0]["exc_value"] == "nobody caught it"
    assert events[-1]["level"] == "critical"


def test_what_json_cannot_say_costs_its_line_alone(events: list[dict[str, Any]]) -> None:
    (lost,) = of(events, "an event could not be written")
    assert (lost["level"], lost["logger"]) == ("error", "tests.speaker")


def test_a_line_for_people(console: str) -> None:
    (line,) = [line for line in console.split("\n") if " fields " in line]
    assert line[8:] == (
        " info      fields               run_ms=12.5 empty='' quoted='a b=\"c\"' listed=[1, 'x'] "
        "job_id=j1 request_id=r1"
    )


def test_no_value_is_a_line_or_a_command(console: str) -> None:
    assert console.replace("\n", "").isprintable()
    lines = console.rstrip("\n").split("\n")
    assert len(lines) == len(console.splitlines())
    events = [line for line in lines if not line.startswith("    ")]
    assert all(LINE.fullmatch(line) for line in events)
    assert not [line for line in events if line[9:].startswith("info      forged")]
    counted = {name: sum(f" {name} " in line[:32] for line in events) for name in COUNTED}
    assert counted == dict.fromkeys(COUNTED, len(HOSTILE))
