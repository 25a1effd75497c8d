"""The guide is true: its commands run, its links lead somewhere, every call of the API is in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.service import ROOT, Service

DOCS = ROOT / "docs"
ADDRESS = "http://127.0.0.1:8000"
PAGES = sorted(DOCS.glob("*.md"))
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
# an error ends the page, with the command that was at fault; curl's own progress is no error
PRELUDE = """set -eo pipefail
curl() { command curl --silent --show-error --fail-with-body --noproxy '*' "$@"; }
"""


def commands(page: str) -> str:
    text = (DOCS / page).read_text("utf-8")
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def run(page: str, service: Service, folder: Path) -> str:
    """All blocks of a page, in their order, as one who reads it would type them."""
    (folder / "models").symlink_to(ROOT / "models")
    done = subprocess.run(
        ["bash", "-c", PRELUDE + commands(page).replace(ADDRESS, service.url)],
        cwd=folder, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@needs_curl
def test_the_quick_start(service: Service, tmp_path: Path) -> None:
    run("quickstart.md", service, tmp_path)
    assert size_of(tmp_path / "heart.png") == (384, 384)
    assert max(size_of(tmp_path / "contour.png")) == 800
    tested = json.loads((tmp_path / "tested.json").read_text())
    assert len(tested["results"]) == 2
    assert "deletion" in json.dumps(tested)


@needs_curl
def test_the_cookbook(service: Service, tmp_path: Path) -> None:
    told = run("cookbook.md", service, tmp_path)
    assert len(json.loads((tmp_path / "explanation.json").read_text())["results"]) == 4
    assert np.load(tmp_path / "map.npy").shape == (384, 384)
    assert np.load(tmp_path / "paper.npy").shape == (224, 224)
    assert size_of(tmp_path / "heatmap.png") == (384, 384)
    assert told.rstrip().endswith("refused, and told why")
    assert '"code":"class_index_out_of_range"' in told


def test_every_call_of_the_api_is_in_the_cookbook() -> None:
    text = commands("cookbook.md").replace("\\\n", " ")
    text = text.replace("$location", "/v1/explanations/ID")
    asked = set()
    for line in text.splitlines():
        if (found := re.search(rf"{ADDRESS}(/[^ ?'\"]*)", line)) is None:
            continue
        has_body = re.search(r" (-F|-d|--data-binary|-X POST) ", line)
        method = "delete" if "-X DELETE" in line else "post" if has_body else "get"
        asked.add((method, found[1]))
    document = json.loads((ROOT / "openapi" / "openapi.json").read_text())
    for path, methods in document["paths"].items():
        pattern = re.sub(r"\{\w+\}", "[^/:]+", path)
        for method in methods:
            assert any(
                one == method and re.fullmatch(pattern, address) for one, address in asked
            ), f"{method.upper()} {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_guide_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
            assert anchor in slugs, target


def test_the_index_has_every_page() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    for page in PAGES:
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
    assert "](docs/README.md)" in (ROOT / "README.md").read_text("utf-8")
