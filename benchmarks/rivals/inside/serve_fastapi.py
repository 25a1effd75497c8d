"""Bare FastAPI + pytorch-grad-cam: the picture as the body, the map as a .npy file.

As its guide advises: a process for each core ("Server Workers", /deployment/server-workers/), each
of which computes with one thread, and what blocks in a thread ("Concurrency and async / await",
/async/). The lock is ours: with hooks on a shared module, threads would answer each other's maps.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from functools import cache

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from benchmarks.rivals.inside.explainers import Explain, pytorch_grad_cam
from benchmarks.rivals.inside.network import THREADS, load_named, preprocess

app = FastAPI()
lock = threading.Lock()


@cache
def explainer() -> Explain:
    explain = pytorch_grad_cam(load_named())
    torch.set_num_threads(1)
    return explain


def explained(picture: bytes, class_index: int) -> bytes:
    inputs = preprocess(picture).unsqueeze(0)
    with lock:
        maps = explainer()(inputs, [[class_index]])
    file = io.BytesIO()
    np.save(file, maps[0, 0])
    return file.getvalue()


@app.post("/explain")
async def explain(request: Request, class_index: int) -> Response:
    body = await request.body()
    return Response(await run_in_threadpool(explained, body, class_index))


@app.get("/ready")
def ready() -> str:
    with lock:
        explainer()
    return "ready"


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.rivals.inside.serve_fastapi:app",
        host="127.0.0.1",
        port=int(sys.argv[1]),
        workers=int(os.environ[THREADS]),
        log_level="warning",
    )
