"""One service for all short tests, healed before each; all invariants are asserted after each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.clients import Clients, clients
from tests.faults.scene import Scene
from tests.faults.server import BINARIES


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    binary = BINARIES["valkey"]
    assert binary is not None
    # of a batch of four, one input has no room: each full one is computed in parts
    with Scene(Path(tmp_path_factory.mktemp("scene")), binary, room=3) as scene:
        yield scene


@pytest.fixture
def scene(running: Scene) -> Scene:
    running.heal()
    return running


@pytest.fixture
def pair(scene: Scene) -> Scene:
    """With both workers ready: for what one of them does while the other cannot."""
    scene.heal(workers=2)
    return scene


@pytest.fixture
async def asking(scene: Scene) -> AsyncIterator[Clients]:
    async with clients(scene) as made:
        yield made
        scene.heal()  # what is still open needs a worker
    scene.check()
