"""`camserve explain FOLDER --out RESULTS`: what is done stays done."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camserve.client import Client
from camserve.commands.manifest import NAME, Entry, Manifest
from tests.client.faulty_proxy import FaultyProxy, Gate, faulty_proxy
from tests.commands.in_process import Camserve
from tests.service import ROOT, Service, free_port


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Small ones, a third of them in a folder of their own."""
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(1)
    paths = []
    for number in range(count):
        path = folder / ("sub" if number % 3 == 0 else ".") / f"p{number:03}.png"
        pixels = random.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "pictures", 6)
    return tmp_path / "pictures"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def proxy(service: Service) -> Iterator[FaultyProxy]:
    with faulty_proxy(service.url) as running:
        yield running


@pytest.fixture
def _heeded_ctrl_c() -> Iterator[None]:
    """Tests that run in the background of a shell ignore it, and so would what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def entries(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / NAME).read_text().splitlines()]


def test_each_file_has_its_results(camserve: Camserve, pictures: Path, out: Path) -> None:
    done = camserve("explain", pictures, "-m", "shapes", "--out", out, "--map", "--size", "feature")
    assert done.code == 0, done.err
    assert done.out.startswith(b"6 explained in ")
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    names = [path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")]
    suffixes = (".json", ".overlay.png", ".map.npy")
    assert files == {f"{name}{end}" for name in names for end in suffixes} | {NAME, "summary.json"}
    document = json.loads((out / "sub" / "p000.png.json").read_text())
    assert document["results"][0]["input_name"] == "p000.png"
    assert np.load(out / "p001.png.map.npy").shape == (16, 16)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["succeeded"], summary["total"], summary["interrupted"]) == (6, 6, False)


def test_a_failure_stops_no_other_and_is_tried_again(
    camserve: Camserve, pictures: Path, out: Path
) -> None:
    whole = (pictures / "p001.png").read_bytes()
    (pictures / "p001.png").write_bytes(whole[:300])
    (pictures / "text.png").write_bytes(b"no picture")
    (pictures / "unread.png").symlink_to("nowhere")
    first = camserve("explain", pictures, "-m", "shapes", "--out", out)
    assert first.code == 1
    lines = first.out.decode().splitlines()
    assert lines[0].startswith("5 explained, 3 failed in")
    assert any(line.startswith("1 x corrupt_image: ") and "p001.png" in line for line in lines)
    assert any(line.startswith("1 x unreadable_image: ") and "text.png" in line for line in lines)
    assert any("No such file" in line for line in lines)
    assert "p001.png: the picture is truncated" in first.err
    (pictures / "p001.png").write_bytes(whole)
    (pictures / "text.png").unlink()
    (pictures / "unread.png").unlink()
    second = camserve("explain", pictures, "-m", "shapes", "--out", out, "--json")
    assert (second.code, second.err) == (0, "")
    assert (second.json["succeeded"], second.json["skipped"]) == (1, 5)


def test_only_what_is_new_or_changed_is_done(camserve: Camserve, pictures: Path, out: Path) -> None:
    def counts(*options: str) -> tuple[int, int]:
        done = camserve("explain", pictures, "-m", "shapes", "--out", out, "--json", *options)
        assert done.code == 0, done.err
        return done.json["succeeded"], done.json["skipped"]

    assert counts() == (6, 0)
    assert counts() == (0, 6)
    os.utime(pictures / "p001.png", (1, 1))  # touched, not changed
    assert counts() == (0, 6)
    Image.new("RGB", (9, 9), "red").save(pictures / "p002.png")  # changed
    Image.new("RGB", (9, 9), "blue").save(pictures / "new.png")  # new
    (out / "p004.png.overlay.png").unlink()  # its result is gone
    assert counts() == (3, 4)
    assert counts("--class", "2") == (7, 0)  # something else is asked
    assert counts("--class", "2", "--map") == (7, 0)
    assert counts("--class", "2", "--map") == (0, 7)


def test_which_files(camserve: Camserve, pictures: Path, out: Path, tmp_path: Path) -> None:
    np.save(pictures / "array.npy", np.zeros((3, 128, 128), np.float32))
    (pictures / "notes.txt").write_text("no")
    (pictures / ".hidden.png").write_bytes(b"no")
    inside = pictures / "results"  # its own results are no inputs

    def names(*arguments: object) -> set[str]:
        done = camserve("explain", *arguments, "-m", "shapes", "--json")
        assert done.code == 0, done.err
        return {str(entry["name"]) for entry in entries(Path(str(arguments[-1])))}

    everything = {path.relative_to(pictures).as_posix() for path in pictures.rglob("p*.png")}
    assert names(pictures, "--out", inside) == everything | {"array.npy"}
    assert names(pictures, "--out", inside) == everything | {"array.npy"}
    shutil.rmtree(inside)
    few = names(pictures, "--pattern", "sub/*", "--pattern", "p001*", "--out", tmp_path / "a")
    assert few == {"sub/p000.png", "sub/p003.png", "p001.png"}
    listed = (pictures / "p001.png", pictures / "sub" / "p000.png")
    assert names(*listed, "--out", tmp_path / "b") == {"p001.png", "p000.png"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--pattern", "*.gif"), 2, "there are no files that match *.gif"),
        (("-o", "x.png"), 2, "-o is for one input"),
        (("--concurrency", "0"), 2, "is no number from 1 to 1024"),
        (("--class", "8"), 4, "stopped: class index 8 is out of range"),
        (("-m", "shaps"), 4, "did you mean 'shapes'"),
        (("-m", "resnet50"), 3, "stopped: model 'resnet50': its weights"),
    ],
)
def test_what_every_file_would_meet_ends_the_run(
    camserve: Camserve, pictures: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    out = pictures.parent / "results"
    done = camserve("explain", pictures, "-m", "shapes", "--out", out, *arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert not (out / NAME).exists() or entries(out) == []


def test_names_that_collide_and_folders_that_do(
    camserve: Camserve, pictures: Path, out: Path
) -> None:
    shutil.copy(pictures / "p001.png", pictures / "sub" / "p001.png")
    twice = (pictures / "p001.png", pictures / "sub" / "p001.png")
    assert "have one name" in camserve("explain", *twice, "-m", "shapes", "--out", out).err
    same = camserve("explain", pictures, "-m", "shapes", "--out", pictures)
    assert same.code == 2
    assert "need one of their own" in same.err
    assert not (pictures / NAME).exists()


def test_fail_fast(camserve: Camserve, pictures: Path, out: Path) -> None:
    (pictures / "a.png").write_bytes(b"no picture")
    done = camserve(
        *("explain", pictures, "-m", "shapes", "--out", out, "--fail-fast", "--concurrency", 1)
    )
    assert done.code == 4
    assert "stopped: not a picture, or of a kind" in done.err
    assert json.loads((out / "summary.json").read_text())["left"] == 6


def test_results_that_cannot_be_written_end_the_run(
    camserve: Camserve, pictures: Path, out: Path
) -> None:
    out.mkdir()
    (out / "sub").write_text("in the way")
    done = camserve("explain", pictures, "-m", "shapes", "--out", out)
    assert done.code == 2
    assert "stopped: " in done.err
    assert str(out / "sub") in done.err


def test_a_full_queue_is_waited_for(
    camserve: Camserve, pictures: Path, out: Path, proxy: FaultyProxy
) -> None:
    proxy.faults = ["none", *(["busy", "unavailable", "gateway", "lost answer", "cut"] * 3)]
    done = camserve("explain", pictures, "-m", "shapes", "--out", out, "--url", proxy.url)
    assert done.code == 0, done.err
    posted = [one for one in proxy.seen if one.method == "POST" and one.answer]
    assert len({one.answer["id"] for one in posted}) == 6
    assert len({one.headers["Idempotency-Key"] for one in posted}) == 6


def test_a_service_that_goes_away_ends_the_run_and_the_next_goes_on(
    camserve: Camserve, pictures: Path, out: Path, proxy: FaultyProxy
) -> None:
    proxy.faults = ["none"] * 8 + ["cut"] * 1000
    options = ("--concurrency", 1, "--timeout", 5)
    run = ("explain", pictures, "-m", "shapes", "--out", out, *options)
    done = camserve(*run, "--url", proxy.url)
    assert done.code == 3
    assert "stopped: no camserve answers at" in done.err
    first = json.loads((out / "summary.json").read_text())
    assert 1 <= first["succeeded"] == 6 - first["left"]
    assert f"{first['left']} files are left; go on with: camserve explain" in done.err
    again = camserve(*run, "--json")
    assert again.code == 0
    assert (again.json["succeeded"], again.json["skipped"]) == (first["left"], first["succeeded"])


def test_a_service_that_is_not_there_at_all_is_not_waited_for_long(
    camserve: Camserve, pictures: Path, out: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = camserve("explain", pictures, "-m", "shapes", "--out", out, "--url", url, "-v")
    assert done.code == 3
    assert "is it running there?" in done.err.splitlines()[-1]
    assert sum(map(float, re.findall(r"^waiting (\S+) s", done.err, re.MULTILINE))) < 10
    assert not out.exists()


def test_nothing_to_do_has_no_speed(camserve: Camserve, pictures: Path, out: Path) -> None:
    run = ("explain", pictures, "-m", "shapes", "--out", out)
    assert camserve(*run).out.startswith(b"6 explained in ")
    assert camserve(*run).out == b"0 explained, 6 done before\n"


@pytest.mark.usefixtures("_heeded_ctrl_c")
def test_ctrl_c_in_the_middle_of_many_and_the_next_run_does_the_rest(
    camserve: Camserve, service: Service, proxy: FaultyProxy, tmp_path: Path, out: Path
) -> None:
    many, done, in_flight = 40, 12, 4
    make_pictures(tmp_path / "many", many)
    with Client(service.url) as client:
        before = sum(1 for _ in client.explanations())
    proxy.gate = Gate(done, hold=in_flight)
    arguments = ("explain", str(tmp_path / "many"), "-m", "shapes", "--out", str(out))
    with subprocess.Popen(
        [sys.executable, "-m", "camserve", *arguments, "--concurrency", str(in_flight)],
        cwd=ROOT,
        env=os.environ | {"CAMSERVE_URL": proxy.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert proxy.gate.is_full.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        for line in process.stderr:
            if "finishing what is in flight" in line:
                break
        proxy.gate.open()
        said, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    first = json.loads((out / "summary.json").read_text())
    assert first["interrupted"]
    # what was in flight was finished, and noted
    assert first["succeeded"] == len(entries(out)) == done + in_flight
    left = many - done - in_flight
    assert said.startswith(f"{done + in_flight} explained, {left} left")
    assert f"{left} files are left; go on with: camserve explain" in errors
    assert not list(out.rglob(".camserve-*"))
    second = camserve(*arguments, "--concurrency", 16, "--json")
    assert (second.code, second.err) == (0, "")
    assert (second.json["skipped"], second.json["succeeded"]) == (done + in_flight, left)
    assert len({str(entry["explanation"]) for entry in entries(out)}) == many
    assert len(list(out.rglob("*.overlay.png"))) == many
    with Client(service.url) as client:  # none was made twice, nor for nothing
        assert sum(1 for _ in client.explanations()) - before == many


def entry(name: str, state: str = "succeeded") -> Entry:
    return Entry(name, 1, 2, "abc", "options", state, "now", ("a.json",))  # type: ignore[arg-type]


def test_a_manifest_that_a_crash_cut_off(tmp_path: Path) -> None:
    with Manifest(tmp_path) as manifest:
        manifest.append(entry("a"))
        manifest.append(entry("b", "failed"))
        manifest.append(entry("b"))
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.write_bytes(b"garbage\n[1]\n" + whole + whole[: len(whole) // 4])
    with Manifest(tmp_path) as manifest:
        assert manifest.entry("a") == entry("a")
        assert manifest.entry("b") == entry("b")  # the last line counts
        manifest.append(entry("c"))
    with Manifest(tmp_path) as manifest:
        assert manifest.entry("c") == entry("c")


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        Manifest(tmp_path),
        pytest.raises(ValueError, match="another run writes to"),
        Manifest(tmp_path),
    ):
        pass
    with Manifest(tmp_path):
        pass
