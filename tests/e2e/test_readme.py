"""What the README says is run: every shell block, the Python block and the card."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camserve.settings import Settings
from tests.service import ROOT, Service
from workers.repository import scan
from workers.sources import load

README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def curls() -> list[str]:
    return [block for block in blocks("sh") if block.startswith("curl")]


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A place where the commands find the sample pictures and may write."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    return tmp_path


def run(command: str, service: Service, folder: Path) -> subprocess.CompletedProcess[bytes]:
    script = command.replace("curl ", "curl --fail-with-body --silent --noproxy '*' ")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(ADDRESS, service.url)],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=60,
    )


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=float)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", curls(), ids=range(len(curls())))
def test_curl_blocks(command: str, service: Service, newcomer: Path) -> None:
    done = run(command, service, newcomer)
    assert done.returncode == 0, done.stdout + done.stderr
    if "overlay.png" in command:
        with Image.open(newcomer / "overlay.png") as picture:
            assert picture.format == "PNG"
            assert min(picture.size) >= 384
    elif "map.npy" in command:
        assert np.load(newcomer / "map.npy").shape == (384, 384)
    elif "/predict" in command:
        assert b'"class_label":"star"' in done.stdout
    else:
        assert b'"state":"succeeded"' in done.stdout


def test_there_are_curl_blocks_for_every_form_of_answer() -> None:
    everything = "\n".join(curls())
    assert len(curls()) >= 4
    assert all(word in everything for word in ("overlay.png", "map.npy", "application/json"))


def test_the_first_block_is_two_make_targets_that_exist() -> None:
    commands = [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()]
    assert commands == ["make serve", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(
        r"^serve:.*\n\t@exec \$\(BIN\)/python -m camserve serve$", makefile, re.MULTILINE
    )
    assert re.search(
        r"^test:.*\n(\t.*\n)*\t@\$\(BIN\)/python -m pytest .*$", makefile, re.MULTILINE
    )


def test_the_picture_is_what_the_service_draws(service: Service, newcomer: Path) -> None:
    (command,) = [block for block in curls() if "class_label=heart" in block]
    assert run(command, service, newcomer).returncode == 0
    drawn, shown = pixels(newcomer / "overlay.png"), pixels(ROOT / "docs" / "overlay.png")
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).mean() < 1.0


def test_the_program_and_the_card_of_a_model_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 2),
    )
    (block,) = blocks("python")
    scope = {"torch": torch, "model": model, "example": torch.zeros(2, 3, 32, 32)}
    exec(block.replace('"models/', f'"{tmp_path}/models/'), scope)
    (card,) = blocks("toml")
    (tmp_path / "models" / "mine" / "card.toml").write_text(card)
    repository = scan(tmp_path / "models")
    assert not repository.invalid
    loaded = load(repository.entries["mine"], Settings())
    assert loaded.input == {"height": 32, "width": 32}
    assert loaded.module(torch.zeros(5, 3, 32, 32)).shape == (5, 2)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    assert io.StringIO(README).readline() == "# camserve\n"
