"""Dockerfile and docker-compose.yml, without Docker: their very commands are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from camserve.broker.server_binary import find_server
from camserve.environment import PREFIX
from camserve.settings import Settings
from tests.service import ROOT, Service, make_repository

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def stage(name: str) -> str:
    """The instructions of one target, continuation lines joined."""
    text = DOCKERFILE.replace("\\\n", " ")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
    return next(one for one in stages if re.match(rf"\S+ AS {name}$", one, re.MULTILINE))


def command(name: str, instruction: str = "CMD") -> list[str]:
    """The exec form of CMD, or of the CMD of a HEALTHCHECK."""
    pattern = rf"^{instruction}\b.*?(\[.*\])$"
    return list(json.loads(re.search(pattern, stage(name), re.MULTILINE)[1]))  # type: ignore[index]


def test_the_entry_points_are_those_that_the_tests_run() -> None:
    # tests/service.py starts `python -m app` and `python -m workers`
    assert command("api") == COMPOSE["services"]["api"]["command"] == ["python", "-m", "app"]
    workers = ["python", "-m", "workers"]
    assert command("worker") == workers
    assert COMPOSE["services"]["worker-cpu"]["command"] == workers
    assert COMPOSE["services"]["worker-gpu"]["command"] == workers


def test_the_health_checks_tell_healthy_from_not(service: Service, tmp_path: Path) -> None:
    sick = os.environ | {"CAMSERVE_PORT": "9", "CAMSERVE_REDIS_URL": f"unix://{tmp_path}/none"}
    well = os.environ | {
        "CAMSERVE_PORT": str(service.port),
        "CAMSERVE_REDIS_URL": service.setting("redis_url"),
    }
    for target in ("api", "worker"):
        _, *arguments = command(target, "HEALTHCHECK")
        for environment, code in ((well, 0), (sick, 1)):
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=ROOT, env=environment, capture_output=True, check=False, timeout=60,
            )  # fmt: skip
            assert done.returncode == code, (target, done.stderr)


def test_the_api_image_needs_no_torch(redis_url: str, tmp_path: Path) -> None:
    """Its install has no torch; here torch is made impossible to import."""
    assert "'.[worker" not in stage("api")
    assert "'.[worker" in stage("worker")
    blocked = tmp_path / "site"
    for package in ("torch", "transformers"):
        (blocked / package).mkdir(parents=True)
        (blocked / package / "__init__.py").write_text("raise ImportError('not in this image')\n")
    models = make_repository(tmp_path / "models")
    environment = {"PYTHONPATH": str(blocked)}
    service = Service(redis_url, models, tmp_path, environment=environment)
    service.start_part("app")
    try:
        service.wait_for(lambda client: client.get("/livez").status_code == 200)
        with service.client() as client:
            assert client.get("/readyz").status_code == 503
            assert client.get("/openapi.json").status_code == 200
    finally:
        service.stop()


def environment_of(name: str) -> dict[str, str]:
    """What the image sets: all ENV of its stage."""
    lines = re.findall(r"^ENV (.+)$", stage(name), re.MULTILINE)
    return dict(one.split("=", 1) for line in lines for one in shlex.split(line))


def test_the_api_image_refuses_to_serve_everybody_unless_it_is_told_to(
    redis_url: str, tmp_path: Path
) -> None:
    image = environment_of("api") | {"CAMSERVE_REDIS_URL": redis_url}
    _, *arguments = command("api")
    refused = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=os.environ | image, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert refused.returncode == 2
    for remedy in ("CAMSERVE_API_KEYS_FILE", "CAMSERVE_ALLOW_ANONYMOUS=true"):
        assert remedy in refused.stderr
    # compose tells it to, because it publishes the port on this machine alone
    compose = COMPOSE["services"]["api"]
    assert all(port.startswith("127.0.0.1:") for port in compose["ports"])
    # as where none of the variables is set that compose passes on
    given = {k: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", v) for k, v in compose["environment"].items()}
    told = image | given
    for name in ("CAMSERVE_REDIS_URL", "CAMSERVE_PORT"):
        told.pop(name)
    service = Service(redis_url, make_repository(tmp_path / "models"), tmp_path, environment=told)
    service.start_part("app")
    try:
        service.wait_for(lambda client: client.get("/livez").status_code == 200)
    finally:
        service.stop()


def test_images_run_as_nobody_special_and_copy_what_exists() -> None:
    for target in ("api", "worker"):
        assert re.search(r"^USER camserve$", stage(target), re.MULTILINE)
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = shlex.split(line)
        for source in sources:
            assert (ROOT / source).exists(), source


def test_every_variable_is_a_setting() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(rf"{PREFIX}\w+", DOCKERFILE + (ROOT / "docker-compose.yml").read_text()))
    assert named <= known


def test_compose_has_a_profile_with_and_one_without_gpu() -> None:
    services = COMPOSE["services"]
    for profile in ("cpu", "gpu"):
        parts = {name for name, one in services.items() if profile in one["profiles"]}
        assert parts == {"redis", "api", f"worker-{profile}"}
    devices = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia"
    assert services["worker-gpu"]["environment"]["CAMSERVE_DEVICES"] == "auto"


def test_compose_starts_a_server_that_understands_its_options(tmp_path: Path) -> None:
    program, *options = COMPOSE["services"]["redis"]["command"]
    assert program == "valkey-server"
    socket = tmp_path / "s.sock"
    server = subprocess.Popen(
        [find_server(), *options, "--port", "0", "--unixsocket", str(socket)],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert any("eady to accept connections" in line for line in server.stdout)
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode == 0


@pytest.mark.parametrize("target", ["api", "worker"])
def test_what_an_image_installs_is_pinned(target: str) -> None:
    assert "--constraint constraints.txt" in stage(target)
    pinned = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==\d+\.\d+\.\d+$", pinned, re.MULTILINE)
