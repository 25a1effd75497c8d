"""`python -m benchmarks.rivals.inside.turns LIBRARY FOLDER THREADS`: explains whenever it is told.

A line of JSON comes for each turn, `{"inputs": FILE.npy, "classes": [[...], ...], "maps": FILE}`,
and one goes back, `{"seconds": ...}`. `maps` says where to leave the maps; null: nowhere.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.rivals.inside.explainers import LIBRARIES
from benchmarks.rivals.inside.network import load


@functools.cache
def inputs_of(path: str) -> Tensor:
    return torch.from_numpy(np.load(path))


def main() -> None:
    library, folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    explain = LIBRARIES[library](load(Path(folder)))
    print(json.dumps({"ready": library}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        inputs = inputs_of(asked["inputs"])
        start_s = time.perf_counter()
        maps = explain(inputs, asked["classes"])
        seconds = time.perf_counter() - start_s
        if asked["maps"]:
            np.save(asked["maps"], maps)
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
