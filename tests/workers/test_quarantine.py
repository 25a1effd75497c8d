"""Who was loading when a process died: suspects, verdicts, and what lifts them."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from camserve.errors import ErrorCode
from tests.service import ROOT
from tests.workers.cards import TINY, entry_of, factory_card, write_model
from workers import quarantine as module
from workers.load_notes import Loading
from workers.quarantine import Quarantine, judge
from workers.repository import Entry

SCRIPT = """
import os, signal, sys
from contextlib import ExitStack
from pathlib import Path
from workers.quarantine import Quarantine
from workers.repository import scan
folder, models, worker, device, end, *names = sys.argv[1:]
quarantine = Quarantine(Path(folder), Path(models), worker=worker, device=device)
entries = scan(Path(models)).entries
with ExitStack() as stack:
    for name in names:
        stack.enter_context(quarantine.noted(entries[name]))
    if end == "close":
        quarantine.close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in "abc":
        write_model(tmp_path / "models", name, factory_card(seed=ord(name)))
    return tmp_path / "models"


@pytest.fixture
def loads(tmp_path: Path) -> Path:
    return tmp_path / "state" / "loads"


def killed(loads: Path, models: Path, end: str, *names: str) -> None:
    """A process that is killed while it loads these; end: `close` if it meant to end then."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, (loads, models, "w", "cpu", end, *names))],
        cwd=ROOT,
        check=False,
        timeout=120,
    )
    assert ended.returncode == -9


def die(loads: Path, models: Path, *names: str, worker: str = "w", device: str = "cpu") -> None:
    """What is left of such a process, without the time that one takes."""
    loads.mkdir(parents=True, exist_ok=True)
    for name in names:
        version = entry_of(models / name).version
        loading = Loading(str(models), name, version, device, worker)
        (loads / f"{secrets.token_hex(8)}.loading").write_text(json.dumps(asdict(loading)))


def side(loads: Path, models: Path, device: str = "cpu") -> Quarantine:
    return Quarantine(loads, models, worker="next", device=device)


def judged(
    loads: Path, ended: Mapping[str, str | None] | None = None
) -> dict[str, tuple[int, bool]]:
    found = judge(loads, {"w": "SIGSEGV"} if ended is None else ended)
    return {one.model: (one.deaths, one.quarantined) for one in found}


def entries(models: Path) -> dict[str, Entry]:
    return {folder.name: entry_of(folder) for folder in models.iterdir()}


def test_a_load_that_ends_leaves_nothing(loads: Path, models: Path) -> None:
    mine = side(loads, models)
    entry = entries(models)["a"]
    with mine.noted(entry):
        assert judged(loads) == {}, "its process lives"
    with pytest.raises(ValueError, match="an error is no death"), mine.noted(entry):
        raise ValueError("an error is no death")
    assert judged(loads) == {}
    assert not mine.is_suspect(entry)
    assert [path.name for path in loads.iterdir()] == ["lock"]


def test_a_process_that_is_killed_leaves_what_it_was_loading(loads: Path, models: Path) -> None:
    killed(loads, models, "die", "a", "b")
    left = [json.loads(path.read_text()) for path in loads.glob("*.loading")]
    die(elsewhere := loads.parent / "as-said", models, "a", "b")
    said = [json.loads(path.read_text()) for path in elsewhere.glob("*.loading")]
    assert sorted(left, key=repr) == sorted(said, key=repr)
    assert judged(loads) == {"a": (1, False), "b": (1, False)}


def test_the_second_death_alone_is_enough(loads: Path, models: Path) -> None:
    entry = entries(models)["a"]
    die(loads, models, "a")
    assert judged(loads) == {"a": (1, False)}
    assert judged(loads) == {}, "judged once"
    mine = side(loads, models)
    assert mine.is_suspect(entry)
    assert mine.problem(entry) is None
    die(loads, models, "a")
    assert judged(loads) == {"a": (2, True)}
    problem = side(loads, models).problem(entry)
    assert problem is not None
    assert problem.error_code is ErrorCode.MODEL_QUARANTINED
    text = str(problem)
    assert f"model 'a', version {entry.version}, is quarantined" in text
    assert "ended the worker process 2 times (last: SIGSEGV)" in text
    assert "POST /v1/models/a/load" in text
    assert problem.extensions["version"] == entry.version


def test_who_loaded_together_is_not_convicted_together(loads: Path, models: Path) -> None:
    """However often: only who was alone is known to be guilty."""
    for _ in range(3):
        die(loads, models, "a", "b")
        assert judged(loads) == {"a": (1, False), "b": (1, False)}
    mine = side(loads, models)
    assert [mine.is_suspect(one) for one in entries(models).values()].count(True) == 2
    with mine.noted(entries(models)["a"]):
        pass  # it was loaded alone, and all is well
    assert not side(loads, models).is_suspect(entries(models)["a"])
    die(loads, models, "b")
    assert judged(loads) == {"b": (2, True)}


def test_processes_are_judged_apart(loads: Path, models: Path) -> None:
    die(loads, models, "a", worker="w")
    die(loads, models, "b", worker="v")
    assert judged(loads, {"w": "SIGSEGV"}) == {"a": (1, False), "b": (1, False)}
    die(loads, models, "a", worker="w")
    die(loads, models, "b", worker="v")
    assert judged(loads, {"w": "SIGKILL"}) == {"a": (2, True), "b": (2, True)}
    of = {name: str(side(loads, models).problem(one)) for name, one in entries(models).items()}
    assert "SIGKILL, as the system does when memory runs out" in of["a"]
    assert "an end that nobody saw" in of["b"]
    assert of["c"] == "None"


def test_who_was_told_to_end_is_not_to_blame(loads: Path, models: Path) -> None:
    die(loads, models, "a")
    assert judged(loads, {"w": None}) == {}
    killed(loads, models, "close", "a")
    assert judged(loads) == {}
    assert not side(loads, models).is_suspect(entries(models)["a"])


def test_each_device_and_each_repository_by_itself(
    loads: Path, models: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        die(loads, models, "a", device="cuda:0")
        judged(loads)
    entry = entries(models)["a"]
    assert side(loads, models, "cuda:0").problem(entry) is not None
    assert side(loads, models, "cuda:1").problem(entry) is None
    assert side(loads, tmp_path / "others", "cuda:0").problem(entry) is None


def test_another_version_is_tried_and_so_is_the_first_one_later(loads: Path, models: Path) -> None:
    for _ in range(2):
        die(loads, models, "a")
        judged(loads)
    mine = side(loads, models)
    first = entries(models)["a"]
    (models / "a" / "card.toml").write_text(TINY)
    second = entries(models)["a"]
    assert mine.problem(second) is None
    mine.forget_others("a", first.version)
    assert mine.problem(first) is not None
    mine.forget_others("b", None)
    assert mine.problem(first) is not None
    mine.forget_others("a", second.version)
    assert mine.problem(first) is None
    assert not side(loads, models).is_suspect(first)


def test_an_operator_may_have_it_tried_once_more(loads: Path, models: Path) -> None:
    entry = entries(models)["a"]
    for _ in range(2):
        die(loads, models, "a")
        judged(loads)
    mine = side(loads, models)
    mine.lift(entry)
    for quarantine in (mine, side(loads, models)):
        assert quarantine.problem(entry) is None
        assert quarantine.is_suspect(entry)
    die(loads, models, "a")
    assert judged(loads) == {"a": (2, True)}, "once, and not as often as at first"
    mine.lift(entries(models)["b"])  # nothing is held against it
    assert not mine.is_suspect(entries(models)["b"])


def test_a_hang_is_enough_by_itself(loads: Path, models: Path) -> None:
    entry = entries(models)["a"]
    mine = side(loads, models)
    mine.convict(entry, "its load outlasted CAMSERVE_LOAD_TIME_LIMIT_S (900 s)")
    for quarantine in (mine, side(loads, models)):
        assert "outlasted" in str(quarantine.problem(entry))
    die(loads, models, "a")  # the process ends, with its note
    assert judged(loads) == {"a": (3, True)}
    assert "outlasted" in str(side(loads, models).problem(entry))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"model": 1}', b"\xff"])
def test_damaged_files_are_passed_over(loads: Path, models: Path, content: bytes) -> None:
    loads.mkdir(parents=True)
    (loads / "x.loading").write_bytes(content)
    (loads / "x.suspect").write_bytes(content)
    assert judged(loads) == {}
    assert not side(loads, models).is_suspect(entries(models)["a"])
    assert not (loads / "x.loading").exists()


def test_a_disk_that_cannot_be_written_to_stops_no_load(
    tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    mine = side(tmp_path / "file" / "loads", models)
    entry = entries(models)["a"]
    entered = False
    with mine.noted(entry):
        entered = True
    assert entered
    assert "CAMSERVE_STATE_DIR names a folder to write to" in caplog.text
    with pytest.raises(OSError, match="loads"):
        judge(tmp_path / "file" / "loads", {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_document", full)
    mine = side(tmp_path / "loads", models)
    mine.convict(entry, "it hangs")  # at least this process knows
    assert mine.problem(entry) is not None
