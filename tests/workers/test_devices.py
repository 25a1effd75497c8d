"""Which devices get a worker."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from workers import devices
from workers.devices import choose_devices

FAILS = ("raise SystemExit(3)", "print('what?')")


@pytest.mark.parametrize("asked", [("cpu",), ("cpu", "cpu"), ("cuda:0", "cuda:1", "cpu")])
def test_a_list_is_kept(asked: tuple[str, ...]) -> None:
    assert choose_devices(asked) == list(asked)


@pytest.mark.parametrize("asked", [("auto",), ()])
def test_without_a_driver_it_is_the_cpu_and_torch_is_not_asked(
    asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda _name: None)
    monkeypatch.setattr(devices.os.path, "exists", lambda _path: False)
    monkeypatch.setattr(devices.subprocess, "run", lambda *_: pytest.fail("asked"))
    assert choose_devices(asked) == ["cpu"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(2)", ["cuda:0", "cuda:1"]),
        ("print(0)", ["cpu"]),
        (FAILS[1], ["cpu"]),
        (FAILS[0], ["cpu"]),
    ],
)
def test_with_a_driver_a_process_counts(
    code: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda _name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(devices, "_COUNT", code)
    assert choose_devices(("auto",)) == expected
    assert ("could not count the GPUs" in caplog.text) == (code in FAILS)


def test_a_probe_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_arguments: Any, **_options: Any) -> None:
        raise subprocess.TimeoutExpired(sys.executable, devices.PROBE_TIMEOUT_S)

    monkeypatch.setattr(devices.shutil, "which", lambda _name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(devices.subprocess, "run", hang)
    assert choose_devices(("auto",)) == ["cpu"]
