"""The client as a package: what importing it costs, what it offers, where it finds its service."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import camserve.client
from camserve.client import Client
from camserve.client.arguments import (
    ExplainArguments,
    MapArguments,
    PictureArguments,
    PredictArguments,
    StyleArguments,
    TargetArguments,
)
from camserve.client.endpoint import Endpoint
from camserve.contracts.options import ArrayOptions, OutputOptions, PictureOptions, PictureStyle
from camserve.contracts.requests import ExplanationRequest, PredictionRequest
from camserve.contracts.targets import TARGET_KEYS
from tests.service import ROOT

FOREIGN = {"app", "fastapi", "numpy", "orjson", "PIL", "redis", "safetensors", "starlette", "torch"}


def test_importing_it_imports_nothing_of_the_service() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import sys, camserve.client; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(shown.stdout.split())
    assert "httpx" in loaded
    assert not loaded & FOREIGN


def test_without_its_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['httpx'] = None; import camserve.client"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: camserve.client needs httpx: pip install 'camserve[client]'"
    )


def test_all_names_are_there_and_sorted() -> None:
    found = pkgutil.iter_modules(camserve.client.__path__, "camserve.client.")
    for module in (camserve.client, *(importlib.import_module(one.name) for one in found)):
        names = module.__all__
        assert all(hasattr(module, name) for name in names), module
    offered = camserve.client.__all__
    assert offered == sorted(offered)
    errors = importlib.import_module("camserve.client.errors")
    assert {name for name in errors.__all__ if name[0].isupper()} <= set(offered)


def test_the_arguments_are_the_fields_of_the_contracts() -> None:
    """By name: whoever adds a field there adds it here. What goes into the head is in none."""
    in_the_head = {"no_cache"}
    style = set(PictureStyle.model_fields)
    assert set(StyleArguments.__annotations__) == style
    assert set(MapArguments.__annotations__) == set(ArrayOptions.model_fields)
    assert set(PictureArguments.__annotations__) == set(PictureOptions.model_fields)
    assert set(TargetArguments.__annotations__) == {*TARGET_KEYS, "params", "targets"}
    asked = set(ExplanationRequest.model_fields) - {"inputs", "output"}
    predicted = set(PredictionRequest.model_fields) - {"inputs"}
    assert set(PredictArguments.__annotations__) == predicted | {"model"} | in_the_head
    expected = asked | set(OutputOptions.model_fields) | {*TARGET_KEYS, "params"} | in_the_head
    assert set(ExplainArguments.__annotations__) == expected


def endpoint(base_url: str | None = None, api_key: str | None = None) -> Endpoint:
    return Endpoint.of(base_url, api_key, 1, 1)


def test_where_and_as_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAMSERVE_URL", raising=False)
    monkeypatch.delenv("CAMSERVE_API_KEY", raising=False)
    assert endpoint().base_url == "http://127.0.0.1:8000"
    assert "Authorization" not in endpoint().client_options()["headers"]
    monkeypatch.setenv("CAMSERVE_URL", "https://cams.example/prefix")
    monkeypatch.setenv("CAMSERVE_API_KEY", "secret")
    assert endpoint().base_url == "https://cams.example/prefix"
    assert endpoint().client_options()["headers"]["Authorization"] == "Bearer secret"
    assert endpoint("http://here", "mine").client_options()["headers"]["Authorization"] == (
        "Bearer mine"
    )


def test_no_proxy_leads_to_this_machine() -> None:
    for url in (
        "http://127.0.0.1:1",
        "http://localhost",
        "http://[::1]:80",
        "http://[::ffff:127.0.0.1]",
    ):
        assert not endpoint(url).client_options()["trust_env"]
    for url in ("http://192.168.1.4", "https://cams.example"):
        assert endpoint(url).client_options()["trust_env"]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "cams", "ftp://there", "http://", ""])
def test_what_is_no_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMSERVE_URL", url or "://")
    with pytest.raises(ValueError, match="is no URL"):
        Client(url)


def test_what_is_no_key() -> None:
    for key in ("two words", "line\nbreak", "clé"):
        with pytest.raises(ValueError, match="API key"):
            Client("http://there", api_key=key)
