"""Several workers on one CPU: their threads leave the cores to each other while they wait."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from camserve.broker.embedded import EmbeddedServer
from tests.workers.processes import Workers

POLICY = "OMP_WAIT_POLICY"


@pytest.mark.parametrize(
    ("devices", "inherited", "expected"),
    [
        ("cpu,cpu", None, "PASSIVE"),
        ("cpu,cpu", "ACTIVE", "ACTIVE"),  # whoever starts the workers knows better
        ("cpu", None, None),  # nobody waits for its cores: spinning is soonest
    ],
)
def test_how_threads_wait(
    devices: str,
    inherited: str | None,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(POLICY, raising=False)
    if inherited:
        monkeypatch.setenv(POLICY, inherited)
    models = tmp_path / "models"
    models.mkdir()
    with (
        EmbeddedServer(tmp_path / "state" / "server") as server,
        Workers(server.url, models, tmp_path, devices=devices) as workers,
    ):
        count = devices.count("cpu")
        end_s = time.monotonic() + 60
        while len(found := started(workers)) < count and time.monotonic() < end_s:
            time.sleep(0.01)
        assert [child.environ().get(POLICY) for child in found] == [expected] * count


def started(workers: Workers) -> list[psutil.Process]:
    """Children that are workers by now: until then they have their parent's environment."""
    return [child for child in workers.children() if "workers.child" in child.cmdline()]
