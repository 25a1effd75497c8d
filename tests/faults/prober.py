"""`python -m tests.faults.prober URL SECONDS`: how long an address takes to answer, in ms, as JSON.

A process of its own, since one that makes load at the same time measures itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from tests.service import ROOT

__all__ = ["Latencies", "Prober"]

EVERY_S = 0.1


@dataclass(frozen=True)
class Latencies:
    """ms, sorted; failures: looks that were not answered with 200."""

    ms: list[float]
    failures: int

    def percentile(self, share: float) -> float:
        return self.ms[min(int(len(self.ms) * share), len(self.ms) - 1)]


class Prober:
    """Looks ten times a second, on a connection that it keeps."""

    def __init__(self, url: str, seconds: float) -> None:
        command = [sys.executable, "-m", "tests.faults.prober", url, str(seconds)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    def result(self) -> Latencies:
        output, _ = self._process.communicate(timeout=60)
        return Latencies(**json.loads(output))

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def look(url: str, seconds: float) -> Latencies:
    parts = urlsplit(url)
    found: list[float] = []
    failures = 0
    end_s = time.monotonic() + seconds
    connection = HTTPConnection(parts.netloc, timeout=10)
    while (began_s := time.monotonic()) < end_s:
        try:
            connection.request("GET", parts.path)
            answer = connection.getresponse()
            answer.read()
            failures += answer.status != 200
        except (OSError, HTTPException):
            failures += 1
            connection.close()
        found.append((time.monotonic() - began_s) * 1000)
        time.sleep(max(began_s + EVERY_S - time.monotonic(), 0))
    return Latencies(sorted(found), failures)


if __name__ == "__main__":
    seen = look(sys.argv[1], float(sys.argv[2]))
    sys.stdout.write(json.dumps({"ms": seen.ms, "failures": seen.failures}))
