"""The whole OpenAPI document against a running service, by Schemathesis: all checks, links on.

    .venv/bin/python -m pytest tests/e2e/test_schemathesis.py -s

shows the report. What it is told beyond the document is in schemathesis.toml and the hooks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from camserve.broker.embedded import EmbeddedServer
from tests.service import ROOT, Service, make_repository

CONFIG = ROOT / "tests" / "e2e" / "schemathesis.toml"
SERVER_ERROR = 500


def run(service: Service, folder: Path, *, examples: int, **options: str) -> list[dict[str, Any]]:
    """Run it; returns all exchanges. Fails with its report if it found anything."""
    har = folder / "exchanges.har"
    more = [part for name, value in options.items() for part in (f"--{name}", value)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", f"{service.url}/openapi.json", "--no-color", "--report", "har"),
            *("--report-har-path", str(har), "--max-examples", str(examples), *more),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.stdout.write(done.stdout)
    entries: list[dict[str, Any]] = json.loads(har.read_text())["log"]["entries"]
    return entries


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """A service of its own, since models are loaded and unloaded; where nothing takes long."""
    models = make_repository(tmp_path / "models", ROOT / "models" / "shapes")
    with (
        EmbeddedServer(tmp_path / "state") as server,
        Service(server.url, models, tmp_path, max_forward_passes=40) as running,
    ):
        yield running


def check(entries: list[dict[str, Any]], service: Service, explanations: int) -> None:
    statuses = Counter(entry["response"]["status"] for entry in entries)
    assert not [status for status in statuses if status >= SERVER_ERROR and status != 503], statuses
    explained = [
        entry
        for entry in entries
        if entry["request"]["method"] == "POST"
        and entry["request"]["url"].partition("?")[0].endswith("/v1/explanations")
        and entry["response"]["status"] in (200, 202)
    ]
    # enough of what is generated must reach a worker, or little is tested
    assert len(explained) >= explanations
    assert "Traceback" not in service.log.read_text()


@pytest.mark.timeout(300)
def test_the_service_is_what_its_document_says(own: Service, tmp_path: Path) -> None:
    """Without the phase that tries every boundary of every field, which takes a minute more."""
    check(run(own, tmp_path, examples=20, phases="examples,fuzzing,stateful"), own, 8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_service_is_what_its_document_says_at_length(
    own: Service, tmp_path: Path, seed: str
) -> None:
    check(run(own, tmp_path, examples=200, seed=seed), own, 500)
