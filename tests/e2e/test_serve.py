"""`camserve serve`: one command starts everything, Ctrl-C ends everything, kill -9 is survived."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.service import ROOT, free_port, make_repository

START_S = 150.0
SERVERS = ("valkey-server", "redis-server")
SAMPLE = ROOT / "models" / "shapes" / "samples" / "star.png"


class Serve:
    """A `camserve serve` of its own, with its output line by line."""

    def __init__(self, folder: Path, models: Path, **more: str) -> None:
        self.state = folder / "state"
        self.port = free_port()
        environment = {k: v for k, v in os.environ.items() if k != "CAMSERVE_REDIS_URL"}
        environment |= {
            "CAMSERVE_PORT": str(self.port),
            "CAMSERVE_STATE_DIR": str(self.state),
            "CAMSERVE_MODELS_DIR": str(models),
            "CAMSERVE_DEVICES": "cpu",
            **more,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "camserve", "serve"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self.process.stdout.close()
        self._queue.put(None)

    def close(self) -> None:
        """End what still runs, and wait until its output is read."""
        for process in self.family() if self.process.poll() is None else ():
            process.kill()
        self.process.wait()
        self._reader.join(30)

    def wait_for(self, text: str) -> str:
        """The first line that holds `text`; raises with all the output if it does not come."""
        while True:
            try:
                line = self._queue.get(timeout=START_S)
            except queue.Empty:
                line = None
            assert line is not None, f"no {text!r} in:\n{''.join(self.lines)}"
            self.lines.append(line)
            if text in line:
                return line

    def rest(self) -> str:
        """What came since the last line that was waited for; only once it has ended."""
        self._reader.join(30)
        return "".join(filter(None, self._queue.queue))

    def family(self) -> list[psutil.Process]:
        """This process and all below it, the private server included."""
        return [
            process
            for process in [psutil.Process(self.process.pid), *_offspring(self.process.pid)]
            if process.is_running()
        ]

    def explain(self) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=100) as client:
            return client.post(
                f"http://127.0.0.1:{self.port}/v1/explanations?as=png",
                data={"model": "shapes"},
                files={"input": SAMPLE.read_bytes()},
            )


def _offspring(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "models", ROOT / "models" / "shapes")


@pytest.fixture
def serves(tmp_path: Path, models: Path) -> Iterator[list[Serve]]:
    """Started commands; what a failed test leaves running is ended."""
    started: list[Serve] = []
    yield started
    for serve in started:
        serve.close()


def test_one_command_starts_all_and_ctrl_c_ends_all(
    tmp_path: Path, models: Path, serves: list[Serve]
) -> None:
    serve = Serve(tmp_path, models)
    serves.append(serve)
    assert f":{serve.port}" in serve.wait_for("camserve is ready")
    assert "curl -F model=shapes" in serve.wait_for("curl")
    assert serve.explain().content.startswith(b"\x89PNG")
    family = serve.family()
    assert len(family) >= 4  # launcher, API, supervisor, worker, and the server
    serve.process.send_signal(signal.SIGINT)
    assert serve.process.wait(100) == 0
    gone, alive = psutil.wait_procs(family, timeout=100)
    assert not alive
    assert len(gone) == len(family)
    left = {path.name for path in serve.state.rglob("*") if not path.is_dir()}
    assert not {name for name in left if name.endswith((".sock", ".lock", ".json"))}
    prefixes = {line.split("|")[0].strip() for line in serve.lines if "|" in line}
    assert {"api", "worker"} <= prefixes


def test_after_kill_9_nothing_is_left_that_the_next_start_cannot_take_over(
    tmp_path: Path, models: Path, serves: list[Serve]
) -> None:
    first = Serve(tmp_path, models)
    serves.append(first)
    first.wait_for("camserve is ready")
    family = [process for process in first.family() if process.pid != first.process.pid]
    children = [process for process in family if process.name() not in SERVERS]
    first.process.kill()
    first.process.wait()
    _, alive = psutil.wait_procs(children, timeout=100)
    assert not alive  # API, supervisor and worker ended by themselves
    second = Serve(tmp_path, models)
    serves.append(second)
    second.wait_for("camserve is ready")
    assert second.explain().content.startswith(b"\x89PNG")
    family += second.family()
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(100) == 0
    _, alive = psutil.wait_procs(family, timeout=100)
    assert not alive


def test_a_second_start_beside_the_first_says_what_to_do(
    tmp_path: Path, models: Path, serves: list[Serve]
) -> None:
    first = Serve(tmp_path, models)
    serves.append(first)
    first.wait_for("camserve is ready")
    second = Serve(tmp_path, models)  # another port, the same state folder
    serves.append(second)
    assert str(first.process.pid) in second.wait_for("another camserve")
    assert second.process.wait(100) == 2
    environment = os.environ | {"CAMSERVE_PORT": str(first.port)}
    third = subprocess.run(
        [sys.executable, "-m", "camserve", "serve"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert third.returncode == 2
    assert "CAMSERVE_PORT" in third.stdout
    assert first.explain().status_code == 200


CHATTY = """
from torch import nn

def make():
    print("x" * 200_000, flush=True)
    print("progress\\r" * 20_000, end="", flush=True)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
"""


def test_a_model_that_prints_without_end_takes_nothing_down(
    tmp_path: Path, models: Path, serves: list[Serve]
) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    (models / "a-chatty").mkdir()
    (models / "a-chatty" / "card.toml").write_text(
        'source = "factory:chatty:make"\n[input]\nheight = 16\nwidth = 16\n'
    )
    serve = Serve(tmp_path, models, PYTHONPATH=str(tmp_path), CAMSERVE_FACTORIES="chatty:make")
    serves.append(serve)
    serve.wait_for("xxxx")
    serve.wait_for("camserve is ready")
    assert serve.explain().content.startswith(b"\x89PNG")


def test_a_supervisor_that_dies_beside_a_hung_child_is_replaced(
    tmp_path: Path, models: Path, serves: list[Serve]
) -> None:
    serve = Serve(tmp_path, models, CAMSERVE_DRAIN_S="1")
    serves.append(serve)
    serve.wait_for("camserve is ready")
    (child,) = [p for p in serve.family() if "workers.child" in " ".join(p.cmdline())]
    supervisor = child.parent()
    assert supervisor is not None
    child.suspend()
    supervisor.kill()
    serve.wait_for("worker ready")
    _, alive = psutil.wait_procs([child], timeout=100)
    assert not alive
    assert serve.explain().content.startswith(b"\x89PNG")


def test_a_second_ctrl_c_waits_for_nothing(
    tmp_path: Path, models: Path, serves: list[Serve]
) -> None:
    serve = Serve(tmp_path, models, CAMSERVE_DRAIN_S="1000")
    serves.append(serve)
    serve.wait_for("worker ready")
    family = serve.family()
    (child,) = [p for p in family if "workers.child" in " ".join(p.cmdline())]
    child.suspend()
    serve.process.send_signal(signal.SIGINT)
    serve.wait_for("is stopping; what is running is finished first")
    serve.process.send_signal(signal.SIGINT)
    assert serve.process.wait(100) == 0
    _, alive = psutil.wait_procs(family, timeout=100)
    assert not alive
    assert "frozen" not in serve.rest()  # which would have ended it, too


def test_a_public_address_without_keys_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "keys.toml"
    wrong.write_text("[keys.")
    for more, remedy in (
        ({"CAMSERVE_HOST": "0.0.0.0"}, "CAMSERVE_ALLOW_ANONYMOUS=true"),
        ({"CAMSERVE_API_KEYS_FILE": str(wrong)}, "cannot read"),
        ({"CAMSERVE_API_KEYS_FILE": str(tmp_path / "none")}, "No such file"),
    ):
        environment = os.environ | more | {"CAMSERVE_STATE_DIR": str(tmp_path / "state")}
        done = subprocess.run(
            [sys.executable, "-m", "camserve", "serve"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert remedy in done.stdout
        assert not (tmp_path / "state").exists()  # nothing was started


def test_a_misspelt_setting_is_refused() -> None:
    environment = os.environ | {"CAMSERVE_PROT": "9000"}
    done = subprocess.run(
        [sys.executable, "-m", "camserve", "serve"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "CAMSERVE_PROT" in done.stderr
