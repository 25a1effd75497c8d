"""What every test may use. Tests mirror the packages; all servers are real."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from camserve.broker.embedded import EmbeddedServer
from tests.service import ROOT, Service, free_port, make_repository
from tests.zoo import add_zoo_models

# What a test asks for is computed, and by the network as it is written, also in the processes that
# it starts: tests of what is remembered or made faster say so.
os.environ["CAMSERVE_OPTIMIZATION"] = "none"
os.environ["CAMSERVE_ACTIVATION_CACHE_MB"] = "0"

# The same examples in every run, however busy the machine is; `make soak` looks for others.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


def pytest_configure() -> None:
    """The tests send the same inputs again and again, and what they prove of queues, workers and
    batches they prove of what is computed; those of the cache of results switch it on."""
    os.environ["CAMSERVE_RESULT_CACHE_MB"] = "0"


def pytest_collection_finish() -> None:
    """What was imported stays: no garbage collection of thousands need look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The private server of a laptop, one for the whole run."""
    with EmbeddedServer(Path(tmp_path_factory.mktemp("embedded"))) as server:
        yield server


@pytest.fixture
def redis_url(embedded_server: EmbeddedServer) -> str:
    """The URL of an empty server, on a unix socket; whose silence is waited for longer than that of
    one that may hang, for here a busy machine is all that can keep it from answering."""
    embedded_server.start()  # no effect unless a test let it die
    with redis.Redis.from_url(embedded_server.url) as client:
        client.flushall()
    return f"{embedded_server.url}?socket_timeout=60"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running camserve, shared by all tests that leave it as it was: `shapes`, the hub's models
    (out of reach) and, where the zoo is there, its models."""
    folder = tmp_path_factory.mktemp("service")
    models = make_repository(
        folder / "models",
        *(ROOT / "models" / name for name in ("shapes", "resnet50", "vit-base", "convnext-tiny")),
    )
    add_zoo_models(models)
    # a hub that refuses the connection: what a machine without a network meets
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}", "HF_HOME": str(folder / "hub")}
    with (
        EmbeddedServer(folder / "state") as server,
        Service(server.url, models, folder, environment=hub) as running,
    ):
        yield running
