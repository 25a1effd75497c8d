"""Settings: of the environment, checked by name, and described in one table."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from camserve.environment import PREFIX
from camserve.queueing import queue_options
from camserve.settings import Settings
from tests.service import ROOT

PAGE = ROOT / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMSERVE_PORT", "9000")
    monkeypatch.setenv("CAMSERVE_MODELS_DIR", "/models")
    monkeypatch.setenv("CAMSERVE_MAX_BODY_MB", "0.5")
    settings = Settings.from_environment(host="::1")
    assert (settings.port, settings.models_dir, settings.host) == (9000, Path("/models"), "::1")
    assert settings.max_body_bytes == 500_000


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMSERVE_PROT", "9000")
    with pytest.raises(ValueError, match=r"CAMSERVE_PROT.*did you mean CAMSERVE_PORT.*settings.md"):
        Settings.from_environment()


@pytest.mark.parametrize("name", ["CAMSERVE_TEST_ANYTHING", "CAMSERVE_URL", "CAMSERVE_API_KEY"])
def test_variables_of_the_tests_and_of_clients_are_left_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    Settings.from_environment()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("MAX_BODY_MB", "0"),
        ("SYNC_WAIT_S", "-1"),
        ("SYNC_WAIT_S", "nan"),
        ("SYNC_WAIT_S", "inf"),
        ("MAX_INPUTS", "1.5"),
        ("LOG_LEVEL", "loud"),
        ("PRELOAD", "all"),
        ("PICTURE_PX", "1"),
    ],
)
def test_a_value_that_means_nothing_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"CAMSERVE_{name}", value)
    with pytest.raises(ValueError, match=f"CAMSERVE_{name}: Input should be"):
        Settings.from_environment()


def test_lists_are_split_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().devices == ("auto",)
    assert Settings().factories == ()
    monkeypatch.setenv("CAMSERVE_DEVICES", " cuda:0, cuda:1 ,")
    monkeypatch.setenv("CAMSERVE_FACTORIES", "a.b:c")
    settings = Settings.from_environment()
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.factories == ("a.b:c",)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        Settings(prot=1)  # type: ignore[call-arg]


def test_the_queue_is_set_up_by_them() -> None:
    settings = Settings(
        lease_s=1, max_attempts=2, queue_depth=3, job_ttl_s=4, job_time_limit_s=5,
        load_time_limit_s=6, dead_letters=7, dead_letter_ttl_s=8, bulk_queue_depth=9,
    )  # fmt: skip
    options = queue_options(settings)
    assert (options.lease_s, options.max_attempts, options.depth_cap) == (1, 2, 3)
    assert (options.job_ttl_s, options.job_time_limit_s) == (4, 11)
    assert (options.dead_letter_cap, options.dead_letter_ttl_s) == (7, 8)
    assert options.bulk_depth_cap == 9


def spelt(value: Any) -> str:
    if value is None or value == ():
        return ""
    return ",".join(value) if isinstance(value, tuple) else f"{value}"


def test_the_table_in_the_documentation_is_that_of_the_class() -> None:
    rows = re.findall(r"^\| `(CAMSERVE_\w+)` \| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    described = {name: (default.strip("`"), meaning) for name, default, meaning in rows}
    assert len(described) == len(rows)
    expected = {
        f"{PREFIX}{name.upper()}": (spelt(field.get_default()), field.description)
        for name, field in Settings.model_fields.items()
    }
    assert described == expected


def test_every_setting_is_described_with_its_unit() -> None:
    units = ("_s", "_mb", "_px", "_megapixels")
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", "`.")), name
        if field.annotation is float:
            assert name.endswith(units), f"{name}: which unit?"
