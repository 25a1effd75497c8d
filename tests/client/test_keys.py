"""The API key that the client shows, to a service that asks for one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from camserve.broker.embedded import EmbeddedServer
from camserve.client import Client, Unauthorized
from tests.commands.in_process import runner
from tests.service import ROOT, Service


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and key of an API that knows one key; nobody works for it."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.toml"
    made = subprocess.run(
        [sys.executable, "-m", "camserve", "keys", "add", "tester"],
        cwd=ROOT,
        env={"CAMSERVE_API_KEYS_FILE": str(keys)},
        capture_output=True,
        text=True,
        check=True,
    )
    with EmbeddedServer(folder / "state") as server:
        service = Service(server.url, folder, folder, api_keys_file=str(keys))
        service.start_part("app")
        try:
            service.wait_for(lambda client: client.get("/livez").status_code == 200)
            yield service.url, made.stdout.strip()
        finally:
            service.stop()


def test_with_and_without(guarded: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    url, key = guarded
    monkeypatch.delenv("CAMSERVE_API_KEY", raising=False)
    with Client(url) as client, pytest.raises(Unauthorized, match="key") as caught:
        client.models()
    assert (caught.value.status, caught.value.code) == (401, "api_key_missing")
    with Client(url, api_key="cam_wrong") as client, pytest.raises(Unauthorized) as caught:
        client.models()
    assert caught.value.code == "api_key_unknown"
    with Client(url, api_key=key) as client:
        assert client.models() == ()
    monkeypatch.setenv("CAMSERVE_API_KEY", key)
    with Client(url) as client:
        assert client.models() == ()


def test_on_the_command_line(
    guarded: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    url, key = guarded
    camserve = runner(url, monkeypatch, capfdbinary)
    monkeypatch.delenv("CAMSERVE_API_KEY", raising=False)
    refused = camserve("models")
    assert refused.code == 4
    assert "problems/api_key_missing" in refused.err
    assert camserve("models", "--api-key", key).code == 0
    monkeypatch.setenv("CAMSERVE_API_KEY", key)
    assert camserve("models").code == 0
