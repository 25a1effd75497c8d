"""Several front end processes at one address: `/metrics` of any tells what all have counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import generate_latest

from app.several_processes import SeveralProcesses
from tests.app.test_metrics import Samples, parsed
from tests.service import ROOT

COUNT = """
import os, sys
from prometheus_client import CollectorRegistry
from app.request_metrics import RequestMetrics
from app.exposition import ProcessMetrics
metrics = ProcessMetrics()
requests = metrics.requests
requests.requests.labels("/livez", "GET", "200").inc(int(sys.argv[1]))
requests.duration.labels("/livez", "GET").observe(0.003)
requests.in_flight.inc()
print("counted", flush=True)
sys.stdin.read()
"""


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}


def counting(folder: Path, number: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT, str(number)],
        cwd=ROOT, env=environment(folder), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def told(folder: Path) -> Samples:
    return parsed(generate_latest(SeveralProcesses(str(folder))).decode())


def numbers(samples: Samples) -> list[float]:
    """Requests, durations in the bucket of 4 ms, durations, their sum, requests in flight."""
    route = {("route", "/livez"), ("method", "GET")}
    duration = "camserve_http_request_duration_seconds"
    return [
        samples["camserve_http_requests_total", frozenset({*route, ("status", "200")})],
        samples[f"{duration}_bucket", frozenset({*route, ("le", "0.004")})],
        samples[f"{duration}_count", frozenset(route)],
        round(samples[f"{duration}_sum", frozenset(route)], 9),
        samples.get(("camserve_http_requests_in_flight", frozenset()), 0.0),
    ]


def test_what_processes_counted_adds_up_and_outlives_them(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    first, second = counting(folder, 2), counting(folder, 3)
    assert numbers(told(folder)) == [5, 2, 2, 0.006, 2]
    first.kill()
    first.communicate()
    for _ in range(2):
        assert numbers(told(folder)) == [5, 2, 2, 0.006, 1]
    pids = {name.stem.rpartition("_")[2] for name in folder.glob("counter_*.db")}
    assert str(first.pid) not in pids
    assert str(second.pid) in pids
    second.communicate("")  # it ends by itself
    assert numbers(told(folder)) == [5, 2, 2, 0.006, 0]
    third = counting(folder, 1)
    assert numbers(told(folder)) == [6, 3, 3, 0.009, 1]
    third.communicate("")
    # files of dead processes do not pile up
    assert numbers(told(folder)) == [6, 3, 3, 0.009, 0]
    assert {path.name for path in folder.iterdir()} == {
        "counter_gone.db", "histogram_gone.db", "lock",
    }  # fmt: skip
