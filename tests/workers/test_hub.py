"""`transformers:` from the hub, against a stand-in for it. Loads run in a process of their own:
the hub's address is read when its client is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import ROOT, free_port
from tests.workers.cards import write_model
from tests.workers.hub_stand_in import HubStandIn
from tests.workers.pretrained import PROCESSORS, save_pretrained
from tests.workers.test_transformers import write_processor
from workers.repository import scan

REPO = "people/tiny-vit"

# loads the model as often as lines are read, and says each time what came of it, and how long the
# client of the hub would have paused between its attempts
_LOADS = """
import sys
import time
from pathlib import Path
from camserve.settings import Settings
from workers.repository import scan
from workers.sources import load

pauses_s = []
time.sleep = pauses_s.append
repository = scan(Path(sys.argv[1]))
for line in sys.stdin:
    try:
        loaded = load(repository.entries[line.strip()], Settings())
        print("loaded", loaded.input["filter"], loaded.input["mean"], flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    print(sum(pauses_s), flush=True)
    pauses_s.clear()
"""


class Loader:
    """A process that loads models from the hub at `url`, with a cache of its own."""

    def __init__(
        self, url: str, models: Path, cache: Path, more: dict[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOADS, str(models)],
            cwd=ROOT,
            env=os.environ
            | {"HF_ENDPOINT": url, "HF_HOME": str(cache), "NO_PROXY": "*"}
            | (more or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def load(self, model: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{model}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        self.paused_s = float(self._process.stdout.readline())
        return said

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "tiny", f'source = "transformers:{REPO}"')
    write_model(folder, "missing", 'source = "transformers:people/nothing-here"')
    write_model(folder, "no-name", 'source = "transformers:a/b/c"')
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandIn]:
    folder = write_model(tmp_path / "served", "m", 'source = "transformers:files"')
    save_pretrained(folder / "files", "vit")
    write_processor(scan(folder.parent).entries["m"], PROCESSORS["vit"])
    with HubStandIn(REPO, folder / "files") as running:
        yield running


@pytest.fixture
def loader(hub: HubStandIn, models: Path, tmp_path: Path) -> Iterator[Loader]:
    process = Loader(hub.url, models, tmp_path / "cache")
    yield process
    process.close()


def test_fetched_once_and_then_used_without_the_hub(
    hub: HubStandIn, loader: Loader, models: Path, tmp_path: Path
) -> None:
    expected = "loaded bilinear (0.5, 0.5, 0.5)\n"
    hub.cut = "preprocessor_config.json"  # must not pass for a model without preprocessing
    assert loader.load("tiny").startswith("ModelUnavailable")
    hub.cut = "model.safetensors"
    cut = loader.load("tiny")
    assert cut.startswith("ModelUnavailable model 'tiny': its weights are fetched from the")
    hub.cut = None
    assert loader.load("tiny") == expected
    count = len(hub.asked)
    assert loader.load("tiny") == expected
    assert len(hub.asked) == count, hub.asked[count:]

    nobody = f"http://127.0.0.1:{free_port()}"
    later = Loader(nobody, models, tmp_path / "cache")
    try:
        assert later.load("tiny") == expected
        assert later.paused_s == 0
        assert later.load("missing").startswith("ModelUnavailable")
    finally:
        later.close()


def test_what_the_hub_does_not_have(hub: HubStandIn, loader: Loader) -> None:
    missing = loader.load("missing")
    assert missing.startswith("InvalidCard")
    assert "the hub has no model 'people/nothing-here'" in missing
    assert loader.load("no-name").startswith("InvalidCard")
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    pickled = loader.load("tiny")
    assert pickled.startswith("UnsupportedModel")
    assert "never opens pickled weights" in pickled
    assert not any("pytorch_model.bin" in asked for asked in hub.asked)


def test_a_hub_that_refuses_the_connection(models: Path, tmp_path: Path) -> None:
    process = Loader(f"http://127.0.0.1:{free_port()}", models, tmp_path / "cache")
    try:
        refusal = process.load("tiny")
        assert process.paused_s == 0
        assert refusal.startswith("ModelUnavailable")
        for way_out in ("Connect the worker", "HF_ENDPOINT", 'source = "transformers:files"'):
            assert way_out in refusal
    finally:
        process.close()
