"""`camserve explain` of one input, `models` and `layers`: output, errors and exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from camserve.commands.exit_codes import ExitCode
from tests.commands.in_process import Camserve
from tests.service import ROOT, Service, free_port

SAMPLE = ROOT / "models" / "shapes" / "samples" / "heart-star.png"
PAGE = (ROOT / "docs" / "client.md").read_text("utf-8")


def test_a_summary_for_people(camserve: Camserve) -> None:
    done = camserve("explain", SAMPLE, "-m", "shapes", "--class", "6,4")
    assert done.code == 0
    lines = done.out.decode().splitlines()
    assert lines[0].split() == ["class", "label", "score", "layer"]
    assert lines[1].split()[:2] == ["6", "star"]
    assert lines[2].split()[:2] == ["4", "heart"]
    assert lines[4].startswith("result 1: overlay http")
    picture = httpx.get(lines[4].split()[-1], trust_env=False)
    assert picture.headers["content-type"] == "image/png"
    assert lines[5].startswith("gradcam of shapes")
    assert b"\x1b" not in done.out  # no colours: this is no terminal


def test_the_summary_of_a_narrow_terminal_can_be_copied(
    camserve: Camserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes that for a terminal
    monkeypatch.setenv("TERM", "dumb")
    lines = camserve("explain", SAMPLE, "-m", "shapes").out.decode().splitlines()
    (link,) = [line for line in lines if "overlay" in line]
    assert link.endswith("/results/0/overlay")


def test_the_summary_says_how_the_map_stood_the_test(camserve: Camserve) -> None:
    asked = '{"metrics": ["deletion", "randomisation"], "steps": 5}'
    done = camserve("explain", SAMPLE, "-m", "shapes", "--evaluate", asked)
    lines = done.out.decode().splitlines()
    for metric in ("deletion", "randomisation"):
        assert any(re.match(rf"result 0: {metric} -?\d\.\d+: ", line) for line in lines), lines


def test_json_for_scripts(camserve: Camserve, service: Service) -> None:
    done = camserve("explain", SAMPLE, "-m", "shapes", "--label", "star", "--json")
    assert (done.code, done.err) == (0, "")
    with service.client() as client:
        answered = client.get(done.json["href"]).json()
    assert done.json["results"] == answered["results"]
    assert done.json["state"] == "succeeded"


def test_files_by_their_suffix(camserve: Camserve, service: Service, tmp_path: Path) -> None:
    names = ("o.png", "o.jpg", "o.webp", "o.npy", "o.json", "o.zip")
    outputs = [part for name in names for part in ("-o", tmp_path / name)]
    done = camserve("explain", SAMPLE, "-m", "shapes", "--size", "96", *outputs)
    assert (done.code, done.out) == (0, b"")
    assert done.err.splitlines() == [f"wrote {tmp_path / name}" for name in names]
    for name, kind in (("o.png", "PNG"), ("o.jpg", "JPEG"), ("o.webp", "WEBP")):
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.size) == (kind, (96, 96))
    document = json.loads((tmp_path / "o.json").read_text())
    with service.client() as client:
        expected = client.get(document["results"][0]["map"]["href"]).content
    assert (tmp_path / "o.npy").read_bytes() == expected
    with zipfile.ZipFile(tmp_path / "o.zip") as archive:
        assert archive.read("maps/0.npy") == expected
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_several_results_are_several_files(camserve: Camserve, tmp_path: Path) -> None:
    done = camserve("explain", SAMPLE, "-m", "shapes", "--top", "2", "-o", tmp_path / "o.npy")
    assert done.code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"o-0.npy", "o-1.npy"}
    refused = camserve("explain", SAMPLE, "-m", "shapes", "--top", "2", "-o", "-")
    assert refused.code == 2
    assert "there are 2 results" in refused.err


def test_options_reach_the_service(camserve: Camserve) -> None:
    done = camserve(
        *("explain", SAMPLE, "-m", "shapes", "--json", "--method", "layercam"),
        *("--layer", "stage2", "--layer", "stage3", "--reduction-layer", "softmax"),
        *("--convention", "paper", "--expression", "x[3] - x[5]", "--fusion", "max"),
        *("--view", "contour", "--alpha", "0.25", "--color-bar", "--size", "64"),
        *("--evaluate", '{"metrics": ["deletion"], "steps": 2}'),
    )
    assert done.code == 0, done.err
    (result,) = done.json["results"]
    assert result["feature_layer"] == ["stage2", "stage3"]
    assert (result["method"], result["reduction_layer"]) == ("layercam", "softmax")
    assert (result["convention"], result["target"]["expression"]) == ("paper", "x[3] - x[5]")
    assert [one["metric"] for one in result["evaluation"]] == ["deletion"]
    assert result["overlay"]["href"].endswith("?view=contour&alpha=0.25&color_bar=true&size=64")


def test_the_region_of_a_mask(camserve: Camserve, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (384, 384), 255).save(mask)
    done = camserve(
        *("explain", SAMPLE, "-m", "shapes", "--reduction", "segmentation", "--mask", mask),
        *("--params", '{"class_index": 1}'),
    )
    assert done.code == 4  # `shapes` is no segmentation: the service says so
    assert "segmentation" in done.err


def test_stdin_and_stdout(service: Service) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "camserve", "explain", "-", "-m", "shapes", *arguments],
            cwd=ROOT,
            env=os.environ | {"CAMSERVE_URL": service.url},
            input=SAMPLE.read_bytes(),
            capture_output=True,
            check=False,
            timeout=60,
        )

    picture = run("-o", "-")
    assert picture.returncode == 0, picture.stderr
    with Image.open(io.BytesIO(picture.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (384, 384))
    array = run("-o", "-", "--as", "npy")
    assert np.load(io.BytesIO(array.stdout)).shape == (384, 384)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nothing.png",), 2, "nothing.png: No such file or directory"),
        ((SAMPLE, SAMPLE), 2, "several inputs need --out"),
        ((SAMPLE.parent,), 2, "is a folder: say by --out"),
        ((SAMPLE, "-o", "x.gif"), 2, "x.gif: the suffix says what to write"),
        ((SAMPLE, "-o", "no/where.png"), 2, "no: there is no such folder"),
        ((SAMPLE, "-o", "-", "--json"), 2, "only one of"),
        ((SAMPLE, "--url", "there"), 2, "'there' is no URL"),
        ((SAMPLE, "--params", "{"), 2, "is not JSON"),
        ((SAMPLE, "--class", "cat"), 2, "is no class index"),
        ((SAMPLE, "--timeout", "0"), 2, "is no number of seconds"),
        ((SAMPLE, "--class", "8"), 4, "8 classes, 0 to 7"),
        ((SAMPLE, "--view", "x-ray"), 4, "output.view: must be 'overlay', 'heatmap'"),
        ((ROOT / "README.md",), 4, "not a picture"),
        ((SAMPLE, "--layer", "head"), 1, "."),
        ((SAMPLE, "--deadline-ms", "1", "--top", "8"), 1, "the deadline passed"),
    ],
)
def test_exit_codes(
    camserve: Camserve, arguments: tuple[object, ...], code: int, said: str
) -> None:
    done = camserve("explain", *arguments, "-m", "shapes")
    assert done.code == code, done.err
    assert said in done.err
    assert done.out == b""
    if code != ExitCode.USAGE:
        assert len(done.err.splitlines()) == 1  # one sentence, with the page that explains it
        assert re.search(r"\(http://.*/problems/\w+\)$", done.err.strip())


def test_errors_as_json(camserve: Camserve) -> None:
    refused = camserve("explain", SAMPLE, "-m", "shapes", "--class", "8", "--json")
    problem = json.loads(refused.err)
    assert (refused.code, problem["code"]) == (4, "class_index_out_of_range")
    assert (problem["maximum"], problem["status"]) == (7, 422)
    url = f"http://127.0.0.1:{free_port()}"
    gone = camserve("models", "--url", url, "--json")
    assert (gone.code, json.loads(gone.err)["code"]) == (3, "unreachable")


def test_nobody_answers_and_a_model_that_is_out_of_reach(camserve: Camserve) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    gone = camserve("layers", "shapes", "--url", url, "-v")
    assert gone.code == 3
    assert gone.err.count("waiting 0.") >= 2
    assert "is it running there?" in gone.err.splitlines()[-1]
    away = camserve("explain", SAMPLE, "-m", "resnet50")
    assert away.code == 3
    assert "hub cannot be reached" in away.err


def test_models(camserve: Camserve) -> None:
    shown = camserve("models").out.decode().splitlines()
    assert shown[0].split() == ["model", "state", "task", "classes", "input", "layer", "queue"]
    (line,) = [line.split() for line in shown if line.startswith("shapes ")]
    assert line[:4] == ["shapes", "ready", "classification", "8"]
    assert "stage3" in line
    names = [model["name"] for model in camserve("models", "--json").json["models"]]
    assert {"shapes", "resnet50"} <= set(names)


def test_layers(camserve: Camserve) -> None:
    shown = camserve("layers", "shapes").out.decode().splitlines()
    assert shown[0].split() == ["rank", "layer", "shape", "format", "map", "why"]
    assert shown[1].split()[:5] == ["1", "stage3", "1x96x16x16", "BCSS", "16x16"]
    everything = camserve("layers", "shapes", "--all").out.decode().splitlines()
    assert len(everything) > len(shown)
    document = camserve("layers", "shapes", "--json").json
    assert document["feature_layer"] == "stage3"
    assert all(layer["rank"] for layer in document["layers"])
    missing = camserve("layers", "shape")
    assert missing.code == 4
    assert "did you mean 'shapes'" in missing.err


def test_the_extra_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "httpx.py").write_text("raise ModuleNotFoundError('no', name='httpx')")
    done = subprocess.run(
        [sys.executable, "-m", "camserve", "models"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "models needs httpx: pip install 'camserve[client]'" in done.stderr


def test_a_reader_that_has_enough(service: Service) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m camserve layers shapes | head -1"],
        cwd=ROOT,
        env=os.environ | {"CAMSERVE_URL": service.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("rank")
    assert done.stderr == ""


def test_the_exit_codes_in_the_documentation() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE))
    assert {int(code) for code in rows} == set(ExitCode)


def test_predict(camserve: Camserve, tmp_path: Path) -> None:
    shown = camserve("predict", SAMPLE, "-m", "shapes", "--top", "2").out.decode().splitlines()
    assert shown[0].split() == ["input", "class", "label", "score", "probability", "share"]
    assert [line.split()[:3] for line in shown[1:]] == [
        [SAMPLE.name, "6", "star"],
        [SAMPLE.name, "4", "heart"],
    ]
    document = camserve("predict", SAMPLE, SAMPLE, "-m", "shapes", "--json").json
    assert [one["input"] for one in document["results"]] == [0, 1]
    raw = camserve("predict", SAMPLE, "-m", "shapes", "-o", tmp_path / "raw.npy")
    assert raw.code == 0
    assert np.load(tmp_path / "raw.npy").shape == (1, 8)
    assert camserve("predict", SAMPLE, "-m", "shapes", "-o", tmp_path / "raw.png").code == 2
    assert camserve("predict", SAMPLE, "-m", "shapes", "--top", "0").code == 4
