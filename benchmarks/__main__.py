"""`python -m benchmarks [--only PART ...] [--quick]`: all that is claimed, measured.

Prints a table, and writes it with the machine and the versions to benchmarks/results.json. A part
that was not measured keeps what the file says of it, if the file is of this machine.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Missing, Row, table
from benchmarks.options import Options
from benchmarks.results import Results

__all__ = ["PARTS", "main", "measured"]

# name of a part, which is also its module, and what it says
PARTS = {
    "engine": "a Grad-CAM beside a plain forward pass",
    "libraries": "the engine beside pytorch-grad-cam, Captum and torch-cam",
    "queue": "what the queue adds to a job",
    "worker": "whether a worker's device waits",
    "service": "the service over HTTP",
    "servers": "the service beside LitServe, KServe, BentoML and bare FastAPI",
    "scaling": "1, 2 and 4 workers",
    "memory": "memory of each process, at rest and under load",
    "livez": "whether the API answers while it works",
}
MODULES = {"libraries": "rivals.libraries", "servers": "rivals.servers"}
RESULTS = Path(__file__).parent / "results.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shapes")
    parser.add_argument("--threads", type=int, help="CPU threads of each side; default: all cores")
    parser.add_argument("--device", help="cpu or cuda; default: the GPU if there is one")
    parser.add_argument("--output", type=Path, help="default: results.json; of --quick, nowhere")
    asked = parser.parse_args(arguments)
    options = Options.here(quick=asked.quick, threads=asked.threads, device=asked.device)
    output = asked.output or (None if asked.quick else RESULTS)
    results = Results.here(options) if output is None else Results.read(output, options)
    failed = False
    for part in asked.only or PARTS:
        start_s = time.perf_counter()
        print(f"{part}: {PARTS[part]}", flush=True)
        rows: list[Row] = []
        try:
            for row in measured(part, options):
                rows.append(row)
                print(*table([row]), sep="\n", flush=True)
                results.add(part, rows, time.perf_counter() - start_s)
                if output is not None:
                    results.write(output)
        except Exception:  # noqa: BLE001 - the other parts are measured all the same
            traceback.print_exc()
            rows.append(Missing(part, "it failed, see the terminal"))
            failed = True
        results.add(part, rows, time.perf_counter() - start_s)
        if output is not None:
            results.write(output)
    print(results.summary())
    return int(failed)


def measured(part: str, options: Options) -> Iterator[Row]:
    """The rows of a part, as they are measured."""
    module = importlib.import_module(f"benchmarks.{MODULES.get(part, part)}")
    rows: Iterator[Row] = module.measure(options)
    return rows


if __name__ == "__main__":
    sys.exit(main())
